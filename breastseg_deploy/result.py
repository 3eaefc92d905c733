"""What the runtime gives back for one frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STAGES = (
    "contract", "stage", "upload", "preprocess", "network", "encoder", "decoder", "mask", "download", "check", "total",
)  # fmt: skip
"""Names of the stages that `Segmentation.timings` may hold, in order.

"contract" checks the frame, "stage" copies it into page-locked memory, "check" holds the answer to its range and, on a
CPU, makes the mask. A backend whose artefact computes the edge channel counts that under "network"; with the
empty-frame gate the network is "encoder" and "decoder"."""


@dataclass(frozen=True)
class Segmentation:
    """The answer for one frame.

    Attributes:
        mask: (H, W) uint8; 1 where the probability reaches the bundle's threshold, else 0.
        probability: (H, W) float32 in [0, 1]; None where it was not asked for.
        timings: seconds by stage (`STAGES`): wall time, and on a GPU the device's own time for its stages; "total" is
            the wall time of the call. In a batch they are those of the whole batch, the same for each of its frames.
        backend: name of the backend that computed it.
        skipped: whether the empty-frame gate found the frame empty; nobody looked at its pixels any further then, and
            its probability is given as 0. None where the bundle was opened without its gate.
        gate_score: the gate's score; None likewise.
    """

    mask: NDArray[np.uint8]
    probability: NDArray[np.float32] | None
    timings: Mapping[str, float]
    backend: str
    skipped: bool | None = None
    gate_score: float | None = None
