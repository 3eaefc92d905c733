"""Logits to masks in NumPy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def mask_of(logits: Sequence[NDArray[Any]], threshold: float) -> NDArray[np.uint8]:
    """(1, 1, H, W) each to (N, H, W) uint8: sigmoid(x) >= t where x >= log(t / (1 - t))."""
    bound = math.log(threshold / (1 - threshold))
    return np.stack([one[0, 0] >= bound for one in logits]).astype(np.uint8)
