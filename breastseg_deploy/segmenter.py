"""The runtime that scanner software embeds: open a bundle once, hand it frames, get masks."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.backends import AUTO, Choice, Inference, choose
from breastseg_deploy.bundle import MODEL, Bundle
from breastseg_deploy.contract import is_single_frame, rgb_batch
from breastseg_deploy.errors import BackendError, ParityError
from breastseg_deploy.manifest import Manifest
from breastseg_deploy.metrics import dice, flipped_ppm

_LOG = logging.getLogger("breastseg_deploy")


@dataclass(frozen=True)
class Segmentation:
    """The answer for one frame, or for a batch in the order it was given.

    Attributes:
        mask: (H, W) or (N, H, W) uint8; 1 where probability >= the bundle's threshold, else 0.
        probability: float32, the mask's shape, in [0, 1].
        timings: wall seconds by stage, in order; the last, "total", is the whole call.
        backend: name of the backend that computed it.
    """

    mask: NDArray[np.uint8]
    probability: NDArray[np.float32]
    timings: Mapping[str, float]
    backend: str


@dataclass(frozen=True)
class GoldenResult:
    """How one golden frame came out on this machine, against the float32 reference stored in the bundle."""

    name: str
    dice: float
    flipped_ppm: float
    largest_probability_error: float


class Segmenter:
    """A bundle, loaded and ready. Open it with `Segmenter.open`; several threads may share one.

    Attributes:
        bundle: the opened bundle.
        manifest: what the bundle says about itself.
        backend: name of the backend in use.
        backend_reason: which backend was chosen and why; also logged at INFO under "breastseg_deploy".
    """

    def __init__(self, bundle: Bundle, choice: Choice) -> None:
        self.manifest: Manifest = bundle.manifest
        self.backend: str = choice.name
        self.backend_reason: str = choice.reason
        self.bundle = bundle
        self._engine = choice.backend
        self._running = 0
        self._closed = False
        self._state = threading.Condition()

    @classmethod
    def open(cls, bundle: str | Path, backend: str = AUTO) -> Segmenter:
        """Check a bundle and load it.

        Args:
            bundle: a folder made by breastseg-export.
            backend: "auto", or a backend's name ("onnxruntime").

        Raises:
            BundleError: the bundle is missing, incomplete or altered.
            BackendError: there is no such backend, or it cannot load the bundle.
            MachineError: the backend's library is not installed.
        """
        opened = Bundle.open(bundle)
        choice = choose(opened, backend)
        _LOG.info("%s: backend %s", opened.path, choice.reason)
        return cls(opened, choice)

    def __call__(
        self, frames: NDArray[Any], *, bit_depth: int | None = None, full_scale: float | None = None
    ) -> Segmentation:
        """Segment one frame or a batch; nothing is resized and no range is guessed.

        Args:
            frames: (H, W) or (H, W, 3), or (N, H, W) or (N, H, W, 3), of the bundle's size; see `contract.rgb_batch`.
            bit_depth: for uint16 frames, the bits that the scanner uses.
            full_scale: for floating-point frames, the value of white.

        Raises:
            FrameError: the frames break the contract; nothing was computed.
            BackendError: the engine failed, its answer is no probability (NaN, outside [0, 1], another shape), or the
                Segmenter is closed.
        """
        started = time.perf_counter()
        rgb = rgb_batch(frames, self.manifest.frame.size_px, bit_depth=bit_depth, full_scale=full_scale)
        checked = time.perf_counter()
        inference = self._infer(rgb)
        inferred = time.perf_counter()
        probability = inference.checked(rgb.shape[:3], self.backend).probability
        mask = (probability >= self.manifest.threshold).astype(np.uint8)
        if is_single_frame(frames.shape, self.manifest.frame.size_px):
            mask, probability = mask[0], probability[0]
        ended = time.perf_counter()
        timings = {"contract": checked - started, **inference.seconds, "threshold": ended - inferred}
        return Segmentation(mask, probability, {**timings, "total": ended - started}, self.backend)

    def self_test(self) -> list[GoldenResult]:
        """Run the bundle's golden frames and hold them to the limits that the export had to meet.

        Returns:
            One result per golden, all within the limits.

        Raises:
            ParityError: a golden's mask Dice is under the limit of the manifest's float32 parity.
            BackendError: the engine failed.
            BundleError: a golden is damaged, or the manifest holds no limit.
        """
        limit = self.manifest.limits_of(MODEL).worst_dice
        results = []
        for golden in self.bundle.goldens():
            answer = self(golden.frame)
            error = float(np.abs(answer.probability - golden.probability).max())
            result = GoldenResult(
                golden.name, dice(answer.mask, golden.mask), flipped_ppm(answer.mask, golden.mask), error
            )
            if result.dice < limit:
                raise ParityError(
                    f"golden {golden.name} came out with Dice {result.dice:.6f} by {self.backend}, "
                    f"the limit is {limit}; do not use this bundle on this machine: run `breastseg doctor` and "
                    "export again"
                )
            results.append(result)
        return results

    def close(self) -> None:
        """Wait for running calls, then give the engine's memory back; calls after this raise BackendError."""
        with self._state:
            if self._closed:
                return
            self._closed = True
            self._state.wait_for(lambda: self._running == 0)
        self._engine.close()

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _infer(self, rgb: NDArray[np.uint8]) -> Inference:
        with self._state:
            if self._closed:
                raise BackendError("this Segmenter is closed; open the bundle again with Segmenter.open")
            self._running += 1
        try:
            return self._engine.infer(rgb)
        finally:
            with self._state:
                self._running -= 1
                self._state.notify_all()
