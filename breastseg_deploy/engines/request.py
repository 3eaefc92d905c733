"""What an engine is asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from breastseg_deploy.engines.flavour import Flavour
from breastseg_deploy.errors import ArgumentError

WORKSPACE_BYTES = 1 << 30
"""Scratch memory that the builder may plan with, unless told otherwise: the whole process has a budget of 4.2 GB."""
MAX_BATCH = 8


@dataclass(frozen=True)
class EngineRequest:
    """An engine to build or to find.

    Attributes:
        flavour: which TensorRT.
        compute_capability: of the GPU that will run it, e.g. "8.6".
        precision: the network's; TensorRT engines are made of the float16 network alone.
        min_batch, max_batch: frames per call: the least and the most. The engine is tuned for both; see `profiles`.
        workspace_bytes: scratch memory that the builder may plan with.
        gpu: the GPU's name, which TensorRT's engines are tied to: one capability has models of other sizes, such as the
            H100 and the H200. Empty where it is not known; without meaning for TensorRT-RTX, whose engines fit every
            GPU of their capability.

    Raises:
        ArgumentError: batches that are not 1 <= min <= max, a capability that is no "major.minor", or no
            workspace.
    """

    flavour: Flavour
    compute_capability: str
    precision: Literal["fp16"] = "fp16"
    min_batch: int = 1
    max_batch: int = MAX_BATCH
    workspace_bytes: int = WORKSPACE_BYTES
    gpu: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.min_batch <= self.max_batch:
            raise ArgumentError(f"batches must be 1 <= min <= max, got {self.min_batch}, {self.max_batch}")
        if not is_compute_capability(self.compute_capability):
            raise ArgumentError(f"a compute capability is written as in 8.6, got {self.compute_capability!r}")
        if self.workspace_bytes <= 0:
            raise ArgumentError(f"the workspace must be at least one byte, got {self.workspace_bytes}")

    @property
    def profiles(self) -> tuple[tuple[int, int, int], ...]:
        """Least, tuned and largest batch of each optimisation profile.

        One frame is what a scanner waits for: kernels that must serve larger batches as well would cost it time.
        """
        least, most = self.min_batch, self.max_batch
        return ((least, least, least),) if least == most else ((least, least, least), (least, most, most))


def is_compute_capability(text: str) -> bool:
    """Whether a text is a compute capability as NVIDIA writes it: "8.6", "12.0"."""
    return re.fullmatch(r"[1-9][0-9]?\.[0-9]", text) is not None
