"""Buffers of one batch size on the GPU, and their page-locked counterparts on the host."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


class GpuBuffers:
    """Everything that a batch of N frames passes through, allocated once.

    Attributes:
        frames: (N, H, W, 3) uint8 on the device; `host_frames` is its counterpart.
        tensor: (N, 4, H, W) float32, the network's input.
        logits: (N, 1, H, W) float32, its output.
        mask: (N, H, W) uint8; `host_mask` is its counterpart.
        probability: (N, H, W) float32; `host_probability` is its counterpart.
        not_finite: (1,) int32, not 0 where a logit is NaN or infinite.
        over_range: (1,) int32, not 0 where a uint16 frame holds a value over its bit depth.
        host_flags: (2,) int32, the counterpart of the last two.

    Raises:
        MemoryError: CuPy's own, where the device is full.
    """

    def __init__(self, cupy: Any, batch: int, size_px: tuple[int, int]) -> None:
        self.frames = cupy.empty((batch, *size_px, 3), np.uint8)
        self.tensor = cupy.empty((batch, 4, *size_px), np.float32)
        self.logits = cupy.empty((batch, 1, *size_px), np.float32)
        self.mask = cupy.empty((batch, *size_px), np.uint8)
        self.probability = cupy.empty((batch, *size_px), np.float32)
        self._flags = cupy.zeros((2,), np.int32)
        self.not_finite, self.over_range = self._flags[:1], self._flags[1:]
        self.host_frames = _pinned(cupy, self.frames.shape, np.uint8)
        self.host_mask = _pinned(cupy, self.mask.shape, np.uint8)
        self.host_probability = _pinned(cupy, self.probability.shape, np.float32)
        self.host_flags = _pinned(cupy, self._flags.shape, np.int32)

    def upload(self, stream: Any) -> None:
        """Put the copy of the frames on the stream."""
        self.frames.set(self.host_frames, stream=stream)

    def download(self, stream: Any) -> None:
        """Put the copies of mask, probability and flags on the stream."""
        for device, host in (
            (self.mask, self.host_mask),
            (self.probability, self.host_probability),
            (self._flags, self.host_flags),
        ):
            device.get(stream=stream, out=host, blocking=False)


def _pinned(cupy: Any, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Page-locked memory: the only kind that the GPU copies from and to while the host goes on."""
    count = math.prod(shape)
    memory = cupy.cuda.alloc_pinned_memory(count * np.dtype(dtype).itemsize)
    return np.frombuffer(memory, dtype, count).reshape(shape)
