"""Inference engines behind one small protocol; `backends.select` picks among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.errors import BackendError

_SIGMOID_SLACK = 1e-6
"""How far an engine's approximation of the sigmoid may leave [0, 1] by rounding."""


@dataclass(frozen=True)
class Inference:
    """What a backend returns for a batch.

    Attributes:
        probability: (N, H, W) float32; None where it was not asked for and the mask is there.
        seconds: time of each of the backend's own stages, by name: wall time on the host, device time on a GPU.
        mask: (N, H, W) uint8, 1 where probability >= the manifest's threshold; None where the backend leaves that to
            its caller.
        scores: (N,) float32 of the empty-frame gate; None without one.
        skipped: (N,) bool, frames that the gate found empty: nobody computed their probabilities, which are 0.
    """

    probability: NDArray[np.float32] | None
    seconds: Mapping[str, float]
    mask: NDArray[np.uint8] | None = None
    scores: NDArray[np.float32] | None = None
    skipped: NDArray[np.bool_] | None = None

    def checked(self, shape: tuple[int, ...], backend: str) -> NDArray[np.float32]:
        """The probabilities, where they are probabilities of that many pixels.

        Args:
            shape: (N, H, W) that was asked for.
            backend: who computed it, for the message.

        Raises:
            BackendError: another shape or dtype, NaN, values outside [0, 1], or none at all.
        """
        found = self.probability
        if found is None:
            came = "none"
        elif found.shape != shape or found.dtype != np.float32:
            came = f"{found.dtype} {found.shape}"
        elif not (found.min() >= -_SIGMOID_SLACK and found.max() <= 1 + _SIGMOID_SLACK):  # false for NaN, too
            came = f"values from {found.min()} to {found.max()}"
        else:
            return found
        raise BackendError(
            f"{backend} must give float32 {shape} in [0, 1], got {came}; no mask is returned: "
            "run `breastseg verify` on this bundle"
        )


class Backend(Protocol):
    """An engine with a loaded bundle. Several threads may call `infer` at the same time."""

    def infer(self, rgb: NDArray[np.uint8], *, probability: bool = True) -> Inference:
        """Masks or probabilities of a checked batch.

        Args:
            rgb: (N, H, W, 3) uint8.
            probability: whether the caller wants it; where not, a backend that makes masks itself may omit it.

        Raises:
            BackendError: the engine failed.
        """

    def close(self) -> None:
        """Give the engine's memory back; `infer` is not called again, `close` may be."""


@runtime_checkable
class DeviceBackend(Backend, Protocol):
    """A backend that also takes frames which lie on its GPU already."""

    def infer_on_device(
        self, frames: Any, *, bit_depth: int | None = None, is_batch: bool, probability: bool = True
    ) -> Inference:
        """Masks of frames on the GPU, which are neither copied to the host nor changed.

        Args:
            frames: has `__cuda_array_interface__` or DLPack; uint8, or uint16 with `bit_depth`; shaped as
                `contract.rgb_frame` takes one frame or `contract.rgb_batch` several.
            bit_depth: bits that uint16 frames use.
            is_batch: whether the first axis is N.
            probability: see `infer`.

        Raises:
            FrameError: the frames break the contract.
            BackendError: the engine failed.
        """


@runtime_checkable
class GatedBackend(Backend, Protocol):
    """A backend with the empty-frame gate; its `infer` skips nothing."""

    def infer_gated(self, rgb: NDArray[np.uint8], *, probability: bool = True) -> Inference:
        """As `infer`, with the probability 0 for each frame that the gate finds empty.

        Raises:
            BackendError: the engine failed.
        """


def lies_on_gpu(frames: object) -> bool:
    """Whether an array lies in a GPU's memory, by what it says about itself; nothing is imported or copied."""
    if hasattr(frames, "__cuda_array_interface__"):
        return True
    where = getattr(frames, "__dlpack_device__", None)
    return where is not None and int(where()[0]) in _DLPACK_CUDA


_DLPACK_CUDA = (2, 13)
"""kDLCUDA and kDLCUDAManaged of dlpack.h."""
