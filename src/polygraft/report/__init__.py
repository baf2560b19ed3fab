"""Stage 5: one self-contained HTML page per run, and a model card per fine-tuned checkpoint."""

from polygraft.report.card import model_card, write_model_card
from polygraft.report.page import write

__all__ = ["model_card", "write", "write_model_card"]
