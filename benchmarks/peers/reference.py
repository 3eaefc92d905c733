"""The float32 reference of every Dice: PyTorch behind the runtime's own CPU preprocessing, as at the export."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from breastseg_export.runners import reference
from breastseg_train.network.checkpoint import load_checkpoint
from peers import Segment, Setting


def open_peer(setting: Setting, variant: str) -> Segment:
    """Load it; it has no variants."""
    checkpoint = load_checkpoint(setting.checkpoint)
    probability = reference(checkpoint.model)

    def segment(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.stack([probability(frame) >= checkpoint.threshold for frame in rgb]).astype(np.uint8)

    return segment
