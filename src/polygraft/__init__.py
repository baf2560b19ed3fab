"""polygraft: adapt a masked language model, transfer it into mBART, fine-tune, and see whether the transfer helped.

What `__all__` names is public; docs/api.md says what that promises. Names are imported when they are first used.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if sys.platform == "win32":  # said before an import fails: the standard library has no `resource` there
    raise SystemExit(
        "polygraft runs on Linux and macOS. On Windows use the Windows Subsystem for Linux: run `wsl --install`, "
        "and install polygraft inside it."
    )

if TYPE_CHECKING:
    from polygraft.api import (
        RunResult,
        StageResult,
        adapt,
        check,
        diagnose,
        evaluate,
        finetune,
        generate,
        generate_file,
        rank,
        run,
        transfer,
    )
    from polygraft.api.outputs import compare, score
    from polygraft.drafting.drafts import init
    from polygraft.errors import CheckpointError, DataError, PolygraftError, RecipeError, TransferError
    from polygraft.objectives import CLM, MLM, Denoising, WarmUp
    from polygraft.publishing.push import push
    from polygraft.recipe import Recipe
    from polygraft.recipe.reading import load_recipe
    from polygraft.scoring.comparison import Comparison
    from polygraft.settings import (
        Bottleneck,
        Budget,
        Diagnose,
        Evaluate,
        Finetune,
        Generate,
        InputData,
        Lora,
        OutputScoring,
        PairData,
        TextData,
        Verdict,
    )
    from polygraft.transfers.methods import (
        BottleneckTransfer,
        DistillTransfer,
        EmbeddingsTransfer,
        EncoderTransfer,
        NoTransfer,
    )

__all__ = [
    "CLM", "MLM", "Bottleneck", "BottleneckTransfer", "Budget", "CheckpointError", "Comparison", "DataError",
    "Denoising", "Diagnose", "DistillTransfer", "EmbeddingsTransfer", "EncoderTransfer", "Evaluate", "Finetune",
    "Generate", "InputData", "Lora", "NoTransfer", "OutputScoring", "PairData", "PolygraftError", "Recipe",
    "RecipeError", "RunResult", "StageResult", "TextData", "TransferError", "Verdict", "WarmUp", "__version__", "adapt",
    "check", "compare", "diagnose", "evaluate", "finetune", "generate", "generate_file", "init", "load_recipe", "push",
    "rank", "run", "score", "transfer",
]  # fmt: skip

_HOMES = (  # where public names are defined, what is quickly imported first
    "polygraft.errors", "polygraft.settings", "polygraft.objectives", "polygraft.transfers.methods", "polygraft.recipe",
    "polygraft.recipe.reading", "polygraft.api.outputs", "polygraft.api", "polygraft.scoring.comparison",
    "polygraft.drafting.drafts", "polygraft.publishing.push",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in __all__:
        for home in _HOMES:
            found = vars(import_module(home))
            if name in found:
                return globals().setdefault(name, found[name])
    raise AttributeError(f"module 'polygraft' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
