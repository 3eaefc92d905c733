"""Inference engines behind one small protocol, and the choice among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.bundle import Bundle
from breastseg_deploy.errors import BackendError

AUTO = "auto"

_SIGMOID_SLACK = 1e-6
"""How far an engine's approximation of the sigmoid may leave [0, 1] by rounding."""


@dataclass(frozen=True)
class Inference:
    """What a backend returns for a batch.

    Attributes:
        probability: (N, H, W) float32.
        seconds: wall time of each of the backend's own stages, by name.
    """

    probability: NDArray[np.float32]
    seconds: Mapping[str, float]

    def checked(self, shape: tuple[int, ...], backend: str) -> Inference:
        """Itself, where its probabilities can be stood for.

        Args:
            shape: (N, H, W) that was asked for.
            backend: who computed it, for the message.

        Raises:
            BackendError: another shape or dtype, NaN, or values outside [0, 1].
        """
        found = self.probability
        if found.shape != shape or found.dtype != np.float32:
            came = f"{found.dtype} {found.shape}"
        elif not (found.min() >= -_SIGMOID_SLACK and found.max() <= 1 + _SIGMOID_SLACK):  # false for NaN, too
            came = f"values from {found.min()} to {found.max()}"
        else:
            return self
        raise BackendError(
            f"{backend} must give float32 {shape} in [0, 1], got {came}; no mask is returned: "
            "run `breastseg verify` on this bundle"
        )


class Backend(Protocol):
    """An engine with a loaded bundle. Several threads may call `infer` at the same time."""

    def infer(self, rgb: NDArray[np.uint8]) -> Inference:
        """Probabilities of a checked batch (N, H, W, 3) uint8.

        Raises:
            BackendError: the engine failed.
        """

    def close(self) -> None:
        """Give the engine's memory back; `infer` is not called again."""


@dataclass(frozen=True)
class Choice:
    """Which backend was taken and why, in words for a log."""

    name: str
    reason: str
    backend: Backend


def _onnxruntime(bundle: Bundle) -> Backend:
    from breastseg_deploy.backends.onnxruntime_cpu import OnnxRuntimeCpu

    return OnnxRuntimeCpu(bundle)


LOADERS: Mapping[str, Callable[[Bundle], Backend]] = {"onnxruntime": _onnxruntime}
"""Backends by name, the preferred one first."""


def choose(bundle: Bundle, name: str) -> Choice:
    """Load the backend of that name, or with "auto" the preferred one.

    Raises:
        BackendError: no backend of that name, or the engine cannot load the bundle.
        MachineError: the backend's library is not installed.
    """
    if name == AUTO:
        first = next(iter(LOADERS))
        return Choice(first, f"{first}: the only backend of this version", LOADERS[first](bundle))
    if name not in LOADERS:
        raise BackendError(f"no backend {name!r}; choose one of {', '.join([AUTO, *LOADERS])}")
    return Choice(name, f"{name}: asked for by name", LOADERS[name](bundle))
