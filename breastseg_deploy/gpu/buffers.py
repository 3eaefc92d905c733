"""What the frames of one run pass through: buffers on the GPU, their page-locked counterparts, and marks in time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

IN_FLIGHT = 2
"""Runs of a batch size under way at once: while one computes, the frames of the next are copied to the GPU."""


class Slot:
    """Frames and answers of up to N frames; no two runs under way share one.

    Attributes:
        frames: (N, H, W, 3) uint8 on the device; `host_frames` is its counterpart.
        mask: (N, H, W) uint8; `host_mask` is its counterpart.
        probability: (N, H, W) float32; `host_probability` is its counterpart.
        not_finite: (1,) int32, not 0 where a logit is NaN or infinite.
        over_range: (1,) int32, not 0 where a uint16 frame holds a value over its bit depth.
        host_flags: (2,) int32, the counterpart of the last two.
        marks: CUDA events before and after each stage on the device, by its name.

    Raises:
        MemoryError: CuPy's own, where the device is full.
    """

    def __init__(self, cupy: Any, batch: int, size_px: tuple[int, int]) -> None:
        self.frames = cupy.empty((batch, *size_px, 3), np.uint8)
        self.mask = cupy.empty((batch, *size_px), np.uint8)
        self.probability = cupy.empty((batch, *size_px), np.float32)
        self._flags = cupy.zeros((2,), np.int32)
        self.not_finite, self.over_range = self._flags[:1], self._flags[1:]
        self.host_frames = _pinned(cupy, self.frames.shape, np.uint8)
        self.host_mask = _pinned(cupy, self.mask.shape, np.uint8)
        self.host_probability = _pinned(cupy, self.probability.shape, np.float32)
        self.host_flags = _pinned(cupy, self._flags.shape, np.int32)
        upload, uploaded, taken, tensor, logits, mask, download, done = (cupy.cuda.Event() for _ in range(8))
        self.marks = {
            "upload": (upload, uploaded),
            "preprocess": (taken, tensor),
            "network": (tensor, logits),
            "mask": (logits, mask),
            "download": (download, done),
        }

    def upload(self, count: int, stream: Any) -> None:
        """Put the copy of the first frames on a stream, between its marks."""
        before, after = self.marks["upload"]
        before.record(stream)
        self.frames[:count].set(self.host_frames[:count], stream=stream)
        after.record(stream)

    def download(self, count: int, probability: bool, stream: Any) -> None:
        """Put the copies of the first masks, of the flags, and of the probabilities if wanted, between their marks."""
        before, after = self.marks["download"]
        before.record(stream)
        self.mask[:count].get(stream=stream, out=self.host_mask[:count], blocking=False)
        self._flags.get(stream=stream, out=self.host_flags, blocking=False)
        if probability:
            self.probability[:count].get(stream=stream, out=self.host_probability[:count], blocking=False)
        after.record(stream)


@dataclass(frozen=True)
class Lane:
    """All that serves one batch size.

    Attributes:
        batch: N of the network's runs; fewer frames leave the rest of its tensor as it is.
        tensor: (N, 4, H, W) float32 on the device, the network's input.
        logits: (N, 1, H, W) float32, its output.
        run_network: puts one run on the pipeline's stream.
        slots: one for each run that may be under way.
    """

    batch: int
    tensor: Any
    logits: Any
    run_network: Callable[[], None]
    slots: tuple[Slot, ...]

    @classmethod
    def make(
        cls, cupy: Any, batch: int, size_px: tuple[int, int], bind: Callable[[int, int, int], Callable[[], None]]
    ) -> Lane:
        """Allocate a lane.

        Args:
            cupy: the module.
            batch: N.
            size_px: (H, W).
            bind: given the addresses of tensor and logits and the batch size, gives what runs the network.

        Raises:
            MemoryError: CuPy's own, where the device is full.
            BackendError: by `bind`.
        """
        tensor = cupy.zeros((batch, 4, *size_px), np.float32)
        logits = cupy.empty((batch, 1, *size_px), np.float32)
        run_network = bind(tensor.data.ptr, logits.data.ptr, batch)
        return cls(batch, tensor, logits, run_network, tuple(Slot(cupy, batch, size_px) for _ in range(IN_FLIGHT)))


def _pinned(cupy: Any, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Page-locked memory: the only kind that the GPU copies from and to while the host goes on."""
    count = math.prod(shape)
    memory = cupy.cuda.alloc_pinned_memory(count * np.dtype(dtype).itemsize)
    return np.frombuffer(memory, dtype, count).reshape(shape)
