"""From frames to masks on one CUDA stream: fused preprocessing kernel, network, mask kernel."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.bundle import FP16, Bundle
from breastseg_deploy.errors import BackendError, FrameError
from breastseg_deploy.extras import require
from breastseg_deploy.gpu import ops as gpu_ops
from breastseg_deploy.gpu.arrays import frame_count, taken
from breastseg_deploy.gpu.buffers import GpuBuffers
from breastseg_deploy.gpu.failure import GpuGuard
from breastseg_deploy.gpu.graph import GpuNetwork, launcher
from breastseg_deploy.inference import Inference
from breastseg_deploy.nvidia import DEVICE
from breastseg_deploy.selftest import Goldens, run_goldens

MAX_BATCH = 8
"""Frames per run: what engines are built for. Larger batches are run in pieces of this size."""


SelfTest = Callable[[int, Goldens], bool]
"""Runs the goldens in batches of that size, unless they are known to pass here; whether they ran now."""


def every_time(batch: int, goldens: Goldens) -> bool:
    """A `SelfTest` that keeps nothing: every process runs the goldens anew."""
    goldens()
    return True


@dataclass(frozen=True)
class _Answer:
    """What one run left behind, in arrays of its own."""

    mask: NDArray[np.uint8]
    probability: NDArray[np.float32]
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class _Lane:
    """All that serves one batch size; `marks` are CUDA events between the stages."""

    buffers: GpuBuffers
    run_network: Callable[[], None]
    marks: Sequence[Any]


class GpuPipeline:
    """A `DeviceBackend` around any `GpuNetwork`.

    Each batch size from 1 to 8 has its own buffers and CUDA graph, made when it is first used, and serves only after
    it reproduces the bundle's goldens: another batch size may run other kernels. Opening prepares
    batch 1. Calls of several threads wait for each other.

    Args:
        bundle: opened; its goldens and limits decide.
        open_network: loads the engine, given the CuPy stream that it must run on.
        self_test: decides whether the goldens must run.

    Raises:
        MachineError: CuPy is not installed.
        BackendError: the engine cannot be loaded or run.
        ParityError: a golden misses the limit of the float16 network.
        BundleError: a golden is damaged, or the manifest holds no limit.
    """

    def __init__(
        self, bundle: Bundle, open_network: Callable[[Any], GpuNetwork], self_test: SelfTest = every_time
    ) -> None:
        manifest = bundle.manifest
        self._bundle = bundle
        self._size_px = manifest.frame.size_px
        self._threshold = manifest.threshold
        self._gabor = manifest.gabor.parameters()
        self._self_test = self_test
        self._cupy: Any = require("cupy", "gpu")
        self._lanes: dict[int, _Lane] = {}
        self._lock = threading.Lock()
        self._device = self._cupy.cuda.Device(DEVICE)
        with self._device:
            self._stream = self._cupy.cuda.Stream(non_blocking=True)
            self._network = open_network(self._stream)
        self._guard = GpuGuard(self._network.name, self._stream)
        with self._on_gpu(1):
            self._lane(1)

    def infer(self, rgb: NDArray[np.uint8], *, probability: bool = True) -> Inference:
        """Probabilities and masks (N, H, W) of a checked batch (N, H, W, 3) on the host; see `Backend.infer`."""
        with self._on_gpu(len(rgb)):
            return _joined([self._run_from_host(self._lane(len(piece)), piece) for piece in _pieces(rgb)])

    def infer_on_device(
        self, frames: Any, *, bit_depth: int | None = None, is_batch: bool, probability: bool = True
    ) -> Inference:
        """Probabilities and masks (N, H, W) of frames on the GPU; see `DeviceBackend.infer_on_device`."""
        with self._lock, self._guard.watch(1), self._device:
            batch = self._view(frames, bit_depth, is_batch)
        with self._on_gpu(len(batch)):
            return _joined([self._run(self._lane(len(piece)), piece, bit_depth) for piece in _pieces(batch)])

    def close(self) -> None:
        """Drop engine, graphs and buffers; see `Backend.close`."""
        with self._lock:
            self._lanes.clear()
            vars(self).pop("_network", None)  # closed twice is closed

    @contextmanager
    def _on_gpu(self, frames: int) -> Iterator[None]:
        """One thread at a time; our device and stream are the current ones inside, the caller's again afterwards.

        The guard is around device and stream: on a GPU that has failed for good, choosing them fails as well. The
        device comes before the stream: CuPy refuses a stream of a device that is not the current one.
        """
        with self._lock, self._guard.watch(frames), self._device, self._stream:
            yield

    def _lane(self, batch: int) -> _Lane:
        """What serves a batch size: made, and proved on the goldens, when it is first asked for."""
        if batch not in self._lanes:
            lane = self._new_lane(batch)
            self._prove(lane, batch)
            self._lanes[batch] = lane
        return self._lanes[batch]

    def _new_lane(self, batch: int) -> _Lane:
        buffers = GpuBuffers(self._cupy, batch, self._size_px)
        bound = self._network.bind(buffers.tensor.data.ptr, buffers.logits.data.ptr, batch)
        run_network = launcher(self._network.name, bound, self._stream, capture=self._network.capturable)
        return _Lane(buffers, run_network, [self._cupy.cuda.Event() for _ in range(6)])

    def _prove(self, lane: _Lane, batch: int) -> None:
        """Refuse a batch size that does not reproduce the goldens.

        Where it is known to, one black batch shows that the device computes, and compiles what there is to compile: the
        first real frame finds all of it done.
        """

        def run(rgb: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
            answer = self._run_from_host(lane, rgb)
            return answer.mask, answer.probability

        engine = f"{self._network.name} in batches of {batch}"
        if not self._self_test(batch, lambda: run_goldens(self._bundle, FP16, run, batch, engine)):
            self._run_from_host(lane, np.zeros((batch, *self._size_px, 3), np.uint8))

    def _run_from_host(self, lane: _Lane, rgb: NDArray[np.uint8]) -> _Answer:
        """As many frames as the lane is for, through its page-locked buffer."""
        started = time.perf_counter()
        np.copyto(lane.buffers.host_frames, rgb)
        staged = time.perf_counter()
        before, after = lane.marks[:2]
        before.record(self._stream)
        lane.buffers.upload(self._stream)
        after.record(self._stream)
        answer = self._run(lane, lane.buffers.frames, None)
        copying = {"stage": staged - started, "upload": self._between(before, after)}
        return _Answer(answer.mask, answer.probability, {**copying, **answer.seconds})

    def _run(self, lane: _Lane, frames: Any, bit_depth: int | None) -> _Answer:
        """As many frames as the lane is for, from wherever they lie on the device."""
        buffers, stream, marks = lane.buffers, self._stream, lane.marks[1:]
        marks[0].record(stream)
        gpu_ops.network_input(
            frames,
            self._size_px,
            self._gabor,
            bit_depth=bit_depth,
            out=buffers.tensor,
            over_range=buffers.over_range,
        )
        marks[1].record(stream)
        lane.run_network()
        marks[2].record(stream)
        gpu_ops.mask_of_logits(
            buffers.logits,
            self._threshold,
            mask=buffers.mask,
            probability=buffers.probability,
            not_finite=buffers.not_finite,
        )
        marks[3].record(stream)
        buffers.download(stream)
        marks[4].record(stream)
        stream.synchronize()
        not_finite, over_range = buffers.host_flags
        if frames.dtype == np.uint16:
            gpu_ops.check_range(int(over_range), bit_depth)
        if not_finite:
            raise BackendError(
                f"{self._network.name} answered with logits that are NaN or infinite; no mask is returned: "
                "run `breastseg verify` on this bundle"
            )
        stages = ("preprocess", "network", "mask", "download")
        seconds = {stage: self._between(*pair) for stage, pair in zip(stages, pairwise(marks), strict=True)}
        return _Answer(buffers.host_mask.copy(), buffers.host_probability.copy(), seconds)

    def _between(self, before: Any, after: Any) -> float:
        return float(self._cupy.cuda.get_elapsed_time(before, after)) / 1000

    def _view(self, frames: Any, bit_depth: int | None, is_batch: bool) -> Any:
        """Frames on our device as a CuPy batch over the same memory; whoever still writes them is waited for.

        The caller's stream must be the current one. What CuPy has put there is waited for by an event, since a
        non-blocking stream such as ours waits for no other by itself. DLPack makes the current stream wait for its
        producer, so it is asked here, where that is the caller's: CuPy itself records on the *current* stream, and if
        that were ours, nothing would be waited for. PyTorch's `__cuda_array_interface__` names no stream and works on
        the default stream, so that is waited for as well.
        """
        view = taken(self._cupy, frames)
        for stream in (self._cupy.cuda.get_current_stream(), self._cupy.cuda.Stream.null):
            self._stream.wait_event(stream.record())
        if not is_batch:
            view = view[np.newaxis]
        frame_count(view.shape[1:] if not is_batch else view.shape, view.dtype, self._size_px, bit_depth)
        if view.device.id != self._device.id:
            raise FrameError(
                f"frames lie on GPU {view.device.id}, this Segmenter runs on GPU {self._device.id}; copy them there"
            )
        return view


def _pieces(batch: Any) -> list[Any]:
    return [batch[start : start + MAX_BATCH] for start in range(0, len(batch), MAX_BATCH)]


def _joined(answers: Sequence[_Answer]) -> Inference:
    first = answers[0]
    if len(answers) == 1:
        return Inference(first.probability, first.seconds, first.mask)
    return Inference(
        np.concatenate([answer.probability for answer in answers]),
        {stage: sum(answer.seconds[stage] for answer in answers) for stage in first.seconds},
        np.concatenate([answer.mask for answer in answers]),
    )
