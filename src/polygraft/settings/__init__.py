"""The sections of a recipe: one frozen model per section, one docstring per field.

The YAML file of a recipe, the command line's options and ``polygraft schema`` are all read off these classes. Those of
training tasks are in objectives/, those of transfers in transfers/methods.py, the whole in recipe/.
"""

from polygraft.settings.base import Files, OneOf, Settings, Share
from polygraft.settings.data import AddLanguages, Forgetting, InputData, PairData, PlainText, TextData, Trim
from polygraft.settings.outputs import (
    BleuTokenizer,
    Decoding,
    Diagnose,
    Evaluate,
    Export,
    Generate,
    OutputScoring,
    Placebo,
    Quantization,
    Serve,
    Verdict,
)
from polygraft.settings.training import (
    ADAPTERS,
    BALANCE_NEEDS,
    BestMetric,
    Bottleneck,
    Budget,
    DataSeed,
    Finetune,
    Lora,
    Optimization,
    ReportTo,
    Running,
    SeedNumber,
    Tracker,
    Trainable,
    Training,
)

__all__ = [
    "ADAPTERS",
    "BALANCE_NEEDS",
    "AddLanguages",
    "BestMetric",
    "BleuTokenizer",
    "Bottleneck",
    "Budget",
    "DataSeed",
    "Decoding",
    "Diagnose",
    "Evaluate",
    "Export",
    "Files",
    "Finetune",
    "Forgetting",
    "Generate",
    "InputData",
    "Lora",
    "OneOf",
    "Optimization",
    "OutputScoring",
    "PairData",
    "Placebo",
    "PlainText",
    "Quantization",
    "ReportTo",
    "Running",
    "SeedNumber",
    "Serve",
    "Settings",
    "Share",
    "TextData",
    "Tracker",
    "Trainable",
    "Training",
    "Trim",
    "Verdict",
]
