"""Stage 5: one self-contained HTML page per run."""

from polygraft.report.page import write

__all__ = ["write"]
