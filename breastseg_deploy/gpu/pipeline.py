"""From frames to masks on the GPU: fused preprocessing kernel, network, mask kernel, and the copies around them."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.bundle import FP16, Bundle
from breastseg_deploy.contract import is_frame, rgb_frame
from breastseg_deploy.errors import BackendError, FrameError, ParityError
from breastseg_deploy.extras import require
from breastseg_deploy.gpu.arrays import device_view, frame_count
from breastseg_deploy.gpu.buffers import IN_FLIGHT, Lane, Slot
from breastseg_deploy.gpu.failure import GpuGuard
from breastseg_deploy.gpu.graph import GpuNetwork, launcher
from breastseg_deploy.gpu.ops import Kernels, check_range
from breastseg_deploy.inference import Inference
from breastseg_deploy.nvidia import DEVICE
from breastseg_deploy.selftest import GoldenResult, Goldens, run_goldens

MAX_BATCH = 8
"""The larger of the two batch sizes that a network runs; the other is 1."""

_TIMED_ROUNDS = 3
"""Runs of each batch size, in turn, that decide between them; the fastest counts: what disturbs one only slows it."""

SelfTest = Callable[[int, Goldens], bool]
"""Runs the goldens in batches of that size, unless they are known to pass here; whether they ran now."""


def every_time(batch: int, goldens: Goldens) -> bool:
    """A `SelfTest` that keeps nothing: every process runs the goldens anew."""
    goldens()
    return True


@dataclass(frozen=True)
class _Run:
    """One run under way: the frames `start` to `start + count` of the batch, which lay on the host or not."""

    start: int
    count: int
    slot: Slot
    on_host: bool


class _Answer:
    """What is being put together for a batch."""

    def __init__(self, count: int, size_px: tuple[int, int], probability: bool) -> None:
        self.mask = np.empty((count, *size_px), np.uint8)
        self.probability = np.empty((count, *size_px), np.float32) if probability else None
        self.seconds: dict[str, float] = {}

    @property
    def inference(self) -> Inference:
        return Inference(self.probability, self.seconds, self.mask)

    def spend(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


class GpuPipeline:
    """A `DeviceBackend` around any `GpuNetwork`.

    The network runs in two batch sizes, 1 and 8. Each has its own buffers and CUDA graph, made when it is first used,
    and serves only after it reproduces the bundle's goldens: another batch size may run other kernels. Opening prepares
    batch 1. A rest of two to seven frames is filled up to 8, or run frame by frame, whichever took less time when both
    sizes were timed here. Runs of one call overlap: copies to the GPU, work on it, and copies from it have a stream
    each. So do two calls of one frame by two threads, as a stream makes them; batches of several threads wait for each
    other and for single frames.

    Args:
        bundle: opened; its goldens and limits decide.
        open_network: loads the engine, given the CuPy stream that it must run on.
        self_test: decides whether the goldens must run.

    Raises:
        MachineError: CuPy is not installed.
        BackendError: the engine cannot be loaded or run.
        ParityError: the goldens miss the limits of the float16 network.
        BundleError: a golden is damaged, or the manifest holds no limit.
    """

    def __init__(
        self, bundle: Bundle, open_network: Callable[[Any], GpuNetwork], self_test: SelfTest = every_time
    ) -> None:
        manifest = bundle.manifest
        self._bundle = bundle
        self._size_px = manifest.frame.size_px
        self._threshold = manifest.threshold
        self._kernels = Kernels(self._size_px, manifest.gabor.parameters())
        self._self_test = self_test
        self._cupy: Any = require("cupy", "gpu")
        self._lanes: dict[int, Lane] = {}
        self._padded_from = MAX_BATCH
        self._lock, self._turn = threading.Lock(), threading.Lock()
        self._free: SimpleQueue[Slot] = SimpleQueue()
        self._device = self._cupy.cuda.Device(DEVICE)
        with self._device:
            self._stream, self._upload, self._download = (self._cupy.cuda.Stream(non_blocking=True) for _ in range(3))
            self._network = open_network(self._stream)
        self._guard = GpuGuard(self._network.name, (self._stream, self._upload, self._download))
        with self._on_gpu(1):
            for slot in self._lane(1).slots:
                self._free.put(slot)

    def infer(self, rgb: NDArray[np.uint8], *, probability: bool = True) -> Inference:
        """Masks (N, H, W) of a checked batch (N, H, W, 3) on the host; see `Backend.infer`."""
        return self._infer(rgb, None, probability)

    def infer_on_device(
        self, frames: Any, *, bit_depth: int | None = None, is_batch: bool, probability: bool = True
    ) -> Inference:
        """Masks (N, H, W) of frames on the GPU; see `DeviceBackend.infer_on_device`."""
        with self._lock, self._guard.watch(1), self._device:
            batch = self._view(frames, bit_depth, is_batch)
        return self._infer(batch, bit_depth, probability)

    def close(self) -> None:
        """Drop engine, graphs and buffers; see `Backend.close`."""
        with self._lock:
            self._lanes.clear()
            vars(self).pop("_network", None)  # closed twice is closed

    def _infer(self, frames: Any, bit_depth: int | None, probability: bool) -> Inference:
        if len(frames) == 1:
            return self._run_one(frames, bit_depth, probability).inference
        with self._alone(), self._on_gpu(len(frames)):
            return self._run(frames, self._plan(len(frames)), bit_depth, probability).inference

    def _run_one(self, frame: Any, bit_depth: int | None, probability: bool) -> _Answer:
        """The mask of one frame; while it is waited for, another thread may put its own frame on the streams.

        A slot is free again only when its answer was read: whoever wakes first takes nobody else's.
        """
        answer = _Answer(1, self._size_px, probability)
        slot = self._free.get()
        try:
            run = _Run(0, 1, slot, on_host=isinstance(frame, np.ndarray))
            with self._on_gpu(1):
                self._start(run, self._lane(1), frame, bit_depth, answer)
            # A device of its own: one that is shared keeps, between threads, what was current before.
            with self._guard.watch(1), self._cupy.cuda.Device(DEVICE):
                self._finish(run, frame.dtype, bit_depth, answer)
        finally:
            self._free.put(slot)
        return answer

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No single frame is under way, and none begins. One batch at a time: two would wait for each other's slots."""
        with self._turn:
            slots: list[Slot] = []
            try:
                while len(slots) < IN_FLIGHT:
                    slots.append(self._free.get())
                yield
            finally:
                for slot in slots:
                    self._free.put(slot)

    @contextmanager
    def _on_gpu(self, frames: int) -> Iterator[None]:
        """One thread at a time; our device and stream are the current ones inside, the caller's again afterwards.

        The guard is around device and stream: on a GPU that has failed for good, choosing them fails as well. The
        device comes before the stream: CuPy refuses a stream of a device that is not the current one.
        """
        with self._lock, self._guard.watch(frames), self._device, self._stream:
            yield

    def _plan(self, frames: int) -> list[tuple[Lane, int]]:
        """The runs of a batch: each run's lane and how many frames it takes."""
        one = self._lane(1)
        if frames == 1:
            return [(one, 1)]
        many = self._lane(MAX_BATCH)
        return [(one if count == 1 else many, count) for count in run_sizes(frames, self._padded_from)]

    def _lane(self, batch: int) -> Lane:
        """What serves a batch size: made, proved on the goldens, and timed, when it is first asked for."""
        if batch not in self._lanes:
            lane = Lane.make(self._cupy, batch, self._size_px, self._bound)
            self._stream.synchronize()  # memory that this stream gave back may be written by another one now
            self._prove(lane)
            if batch == MAX_BATCH:
                self._padded_from = self._timed(self._lanes[1], lane)
            self._lanes[batch] = lane
        return self._lanes[batch]

    def _bound(self, tensor: int, logits: int, batch: int) -> Callable[[], None]:
        bound = self._network.bind(tensor, logits, batch)
        return launcher(self._network.name, bound, self._stream, capture=self._network.capturable)

    def _prove(self, lane: Lane) -> None:
        """Refuse a batch size that does not reproduce the goldens.

        Where they are known to pass, one black batch shows that the device computes, and compiles what there is to
        compile: the first real frame finds all of it done.
        """

        def run(rgb: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
            answer = self._run(rgb, [(lane, lane.batch)], None, True)
            return answer.mask, answer.inference.checked(answer.mask.shape, self._network.name)

        def goldens() -> Sequence[GoldenResult]:
            engine = f"{self._network.name} in batches of {lane.batch}"
            results = run_goldens(self._bundle, FP16, run, lane.batch, engine)
            self._check_mean(results, engine)
            return results

        if not self._self_test(lane.batch, goldens):
            run(np.zeros((lane.batch, *self._size_px, 3), np.uint8))

    def _check_mean(self, results: Sequence[GoldenResult], engine: str) -> None:
        """Sums in float16 shift every mask a little where the worst of them alone would pass."""
        found, limit = mean(result.dice for result in results), self._bundle.manifest.limits_of(FP16).mean_dice
        if not found >= limit:
            raise ParityError(
                f"the goldens have a mean Dice of {found:.6f} by {engine}, the limit is {limit:.6g}; do not use its "
                f"{FP16} artefact on this machine: take another backend, or run `breastseg doctor` and export again"
            )

    def _timed(self, one: Lane, many: Lane) -> int:
        """The least rest of a batch that one run of the larger size computes faster than runs of one frame."""
        best = dict.fromkeys((one.batch, many.batch), math.inf)
        before, after = self._cupy.cuda.Event(), self._cupy.cuda.Event()
        for _ in range(_TIMED_ROUNDS):
            for lane in (one, many):
                before.record(self._stream)
                lane.run_network()
                after.record(self._stream)
                self._stream.synchronize()
                best[lane.batch] = min(best[lane.batch], self._between(before, after))
        return min(MAX_BATCH, max(2, math.floor(best[many.batch] / max(best[one.batch], 1e-9)) + 1))

    def _run(self, frames: Any, plan: Sequence[tuple[Lane, int]], bit_depth: int | None, probability: bool) -> _Answer:
        """Masks of frames on the host (uint8 RGB) or on the device, a few runs under way at once."""
        answer = _Answer(len(frames), self._size_px, probability)
        under_way: deque[_Run] = deque()
        turns: dict[int, Iterator[Slot]] = {}
        start = 0
        for lane, count in plan:
            # A lane's slots come in turn, so the oldest run must be over before the next one is started.
            if len(under_way) == IN_FLIGHT:
                self._finish(under_way.popleft(), frames.dtype, bit_depth, answer)
            slot = next(turns.setdefault(lane.batch, itertools.cycle(lane.slots)))
            run = _Run(start, count, slot, on_host=isinstance(frames, np.ndarray))
            self._start(run, lane, frames[start : start + count], bit_depth, answer)
            under_way.append(run)
            start += count
        for run in under_way:
            self._finish(run, frames.dtype, bit_depth, answer)
        return answer

    def _start(self, run: _Run, lane: Lane, frames: Any, bit_depth: int | None, answer: _Answer) -> None:
        """Put a run on the three streams; nothing is waited for."""
        slot, count, stream = run.slot, run.count, self._stream
        if run.on_host:
            started = time.perf_counter()
            np.copyto(slot.host_frames[:count], frames)
            answer.spend("stage", time.perf_counter() - started)
            slot.upload(count, self._upload)
            # The compute stream waits for the copy; this thread goes on, to the next frame.
            stream.wait_event(slot.marks["upload"][1])
            frames = slot.frames[:count]
        taken_up, tensor = slot.marks["preprocess"]
        logits, mask = slot.marks["mask"]
        taken_up.record(stream)
        self._kernels.network_input(frames, bit_depth=bit_depth, out=lane.tensor[:count], over_range=slot.over_range)
        tensor.record(stream)
        lane.run_network()
        logits.record(stream)
        self._kernels.mask_of_logits(
            lane.logits[:count],
            self._threshold,
            mask=slot.mask[:count],
            probability=slot.probability[:count] if answer.probability is not None else None,
            not_finite=slot.not_finite,
        )
        mask.record(stream)
        # Copies back have a stream of their own: the next run may compute while this mask is under way.
        self._download.wait_event(mask)
        slot.download(count, answer.probability is not None, self._download)

    def _finish(self, run: _Run, dtype: Any, bit_depth: int | None, answer: _Answer) -> None:
        """Wait for a run and put its answer into the batch's.

        Raises:
            FrameError: a uint16 frame holds a value over its bit depth.
            BackendError: a logit is NaN or infinite. A finite one has a probability between 0 and 1.
        """
        slot, frames = run.slot, slice(run.start, run.start + run.count)
        slot.marks["download"][1].synchronize()
        # The flags came down with the mask. The frame is named before the network: of a frame over its range, logits
        # mean nothing.
        not_finite, over_range = slot.host_flags
        if dtype == np.uint16:
            check_range(int(over_range), bit_depth)
        if not_finite:
            raise BackendError(
                f"{self._network.name} answered with logits that are NaN or infinite; no mask is returned: "
                "run `breastseg verify` on this bundle"
            )
        answer.mask[frames] = slot.host_mask[: run.count]
        if answer.probability is not None:
            answer.probability[frames] = slot.host_probability[: run.count]
        for stage, marks in slot.marks.items():
            if stage != "upload" or run.on_host:
                answer.spend(stage, self._between(*marks))

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
        view = device_view(self._cupy, frames)
        for stream in (self._cupy.cuda.get_current_stream(), self._cupy.cuda.Stream.null):
            self._stream.wait_event(stream.record())
        if not is_batch and not is_frame(view.shape, self._size_px):
            rgb_frame(np.broadcast_to(np.zeros((), view.dtype), view.shape), self._size_px)  # raises, in its own words
        frame_count(view.shape, view.dtype, self._size_px, bit_depth)
        if view.device.id != self._device.id:
            raise FrameError(
                f"frames lie on GPU {view.device.id}, this Segmenter runs on GPU {self._device.id}; copy them there"
            )
        return view if is_batch else view[np.newaxis]


def run_sizes(frames: int, padded_from: int) -> list[int]:
    """How many frames each run of a batch takes: full ones first.

    Args:
        frames: in the batch.
        padded_from: the least rest that one run takes whole; a smaller one goes frame by frame.
    """
    full, rest = divmod(frames, MAX_BATCH)
    return [MAX_BATCH] * full + ([rest] if rest >= padded_from else [1] * rest)
