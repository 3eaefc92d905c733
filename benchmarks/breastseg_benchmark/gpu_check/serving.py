"""The demo bundle through each GPU backend: masks, memory, frames that are still being written, and a GPU that dies."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_benchmark.gpu_check.machine import needed_cupy
from breastseg_benchmark.gpu_check.step import Finding, Settings, Skip
from breastseg_deploy.backends.registry import BACKENDS
from breastseg_deploy.bundle import FP16
from breastseg_deploy.errors import BackendError, MachineError
from breastseg_deploy.phantom import phantom_frame
from breastseg_deploy.segmenter import Segmenter

_RACES = 100
_CALLS = 30


def tensorrt(settings: Settings) -> Finding:
    """The bundle through TensorRT."""
    return serve(settings, "tensorrt")


def tensorrt_rtx(settings: Settings) -> Finding:
    """The bundle through TensorRT-RTX."""
    return serve(settings, "tensorrt-rtx")


def onnxruntime_cuda(settings: Settings) -> Finding:
    """The bundle through ONNX Runtime. Its fallbacks are off: that it opens says that every node is on the GPU."""
    return serve(settings, "onnxruntime-cuda")


def serve(settings: Settings, backend: str) -> Finding:
    """Open the bundle and see what it gives.

    Raises:
        Skip: the backend lacks something here.
    """
    cupy: Any = needed_cupy()
    free, started = cupy.cuda.Device().mem_info[0], time.perf_counter()
    with _opened(settings, backend) as segment:
        opened_s = time.perf_counter() - started
        return served(segment, cupy, free, opened_s)


def served(segment: Segmenter, cupy: Any, free_before: int, opened_s: float, calls: int = _CALLS) -> Finding:
    """Goldens and stages by an open segmenter, and the GPU's memory as each batch size is first used."""

    def held() -> int:
        return int(free_before - cupy.cuda.Device().mem_info[0])

    frame, memory = _frame(segment), {"opened": held()}
    for name, count in (("one frame", 1), ("eight frames", 8)):
        segment.batch([frame] * count)
        memory[name] = held()
    goldens = segment.self_test()
    artefact = segment.manifest.artefact(FP16)
    exported = [] if artefact is None else [(one.engine, one.mean_dice, one.worst_dice) for one in artefact.parity]
    worst, stages = min(one.dice for one in goldens), _stages(segment, [frame], calls)
    figures = {
        "opened in, s": opened_s,
        "reason": segment.backend_reason,
        "goldens: mean and worst Dice": (mean(one.dice for one in goldens), worst),
        "at the export: engine, mean and worst Dice": exported,
        "largest probability error": max(one.largest_probability_error for one in goldens),
        "GPU memory held, bytes": memory,
        "stages of one frame, ms": stages,
        "stages of eight frames, ms": _stages(segment, [frame] * 8, calls),
    }
    words = f"goldens pass, worst Dice {worst:.6f}; {stages['total']:.2f} ms a frame"
    return Finding("passed", f"{words}; {memory['eight frames'] / 1e9:.2f} GB with both batch sizes", figures)


def race(settings: Settings) -> Finding:
    """Frames that a busy stream has yet to write, a hundred times: each must give the mask that it gives at rest."""
    cupy: Any = needed_cupy()
    with _opened(settings, None) as segment:
        return raced(segment, cupy, _RACES)


def raced(segment: Segmenter, cupy: Any, times: int) -> Finding:
    """`race` with an open segmenter."""
    frames = [_frame(segment), 255 - _frame(segment)]
    wanted = [segment(frame).mask for frame in frames]
    stream, wrong = cupy.cuda.Stream(non_blocking=True), 0
    place = cupy.empty(frames[0].shape, np.uint8)
    for number in range(times):
        with stream:
            busy = cupy.zeros((4096, 4096), np.float32)
            for _ in range(5):
                busy = busy.astype(np.float32, copy=True)  # about as long as a frame takes
            place[...] = cupy.asarray(frames[number % 2])
            found = segment(place).mask
        wrong += not np.array_equal(found, wanted[number % 2])
    words = f"{wrong} of {times} frames read before they were written, by {segment.backend}"
    return Finding("failed" if wrong else "passed", words)


def illegal_address(settings: Settings) -> Finding:
    """A kernel that writes nowhere: every later call must say in words that the GPU failed for good."""
    cupy: Any = needed_cupy()
    with _opened(settings, None) as segment:
        frame = _frame(segment)
        segment(frame)
        code = 'extern "C" __global__ void wild(int *p) { p[(1ll << 40) + threadIdx.x] = 1; }'
        cupy.RawModule(code=code).get_function("wild")((1,), (32,), (cupy.zeros(1, np.int32),))
        said = []
        for _ in range(3):
            try:
                segment(frame)
            except BackendError as err:
                said.append(str(err))
        right = len(said) == 3 and len(set(said)) == 1 and "the GPU failed for good" in said[0]
        return Finding("passed" if right else "failed", said[0] if said else "the segmenter went on serving")


def benchmark(settings: Settings) -> Finding:
    """The GPU rows of `breastseg benchmark`."""
    needed_cupy()
    names = [name for name, record in BACKENDS.items() if record.on_gpu]
    options = [option for name in names for option in ("--backend", name)]
    command = [sys.executable, "-m", "breastseg_deploy.cli.main", "benchmark", settings.bundle, *options, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode not in (0, 1) or not lines:
        return Finding("failed", (done.stderr.strip().splitlines() or ["no words"])[-1][:600])
    (Path(settings.output) / "benchmark.json").write_text(lines[-1])
    rows = json.loads(lines[-1]).get("rows", [])
    return Finding("passed", f"{len(rows)} rows, in benchmark.json", {})


@contextmanager
def _opened(settings: Settings, backend: str | None) -> Iterator[Segmenter]:
    """The bundle, opened by that backend, or by the first on the GPU that this machine has everything for."""
    names = [backend] if backend else [name for name, record in BACKENDS.items() if record.on_gpu]
    lacking = []
    for name in names:
        try:
            segment = Segmenter.open(settings.bundle, name)
        except MachineError as err:
            lacking.append(str(err))
            continue
        with segment:
            yield segment
            return
    raise Skip("; ".join(dict.fromkeys(lacking)))


def _frame(segment: Segmenter) -> NDArray[np.uint8]:
    grey = phantom_frame(1, segment.manifest.frame.size_px).frame
    return np.stack([grey, grey // 2, grey // 3], axis=-1)


def _stages(segment: Segmenter, frames: list[NDArray[np.uint8]], calls: int) -> Mapping[str, float]:
    """Medians of a call's stages in milliseconds, after calls that are not counted."""
    timings = [segment.batch(frames, probability=False)[0].timings for _ in range(calls + 5)][5:]
    return {stage: 1000 * median(one[stage] for one in timings) for stage in timings[0]}
