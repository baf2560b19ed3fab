"""Where labels are, as integer positions: what comes after them then has a shape that is known beforehand.

B batch, T positions, N labels.
"""

from __future__ import annotations

from torch import Tensor

from polygraft.data.layout import IGNORED


def find_labels(labels_BT: Tensor) -> Tensor:
    """Return the flat indices into B * T of all labels but -100, ascending (int64 [N]).

    For `collate`, on the CPU: with a boolean mask the loss would have to wait for a GPU to say how many there are, and
    could not be laid out without data (checks/memory.py).
    """
    return (labels_BT != IGNORED).flatten().nonzero().squeeze(1)


def pick(values_BT: Tensor, positions_N: Tensor) -> Tensor:
    """Return the values [N, ...] at flat positions of [B, T, ...]."""
    return values_BT.flatten(0, 1)[positions_N]
