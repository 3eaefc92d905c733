"""The demo bundle through each GPU backend: masks, memory, frames that are still being written, and a GPU that dies."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_benchmark.gpu_check.machine import bytes_in_use, needed_cupy
from breastseg_benchmark.gpu_check.step import Finding, Settings, Skip
from breastseg_deploy.backends.registry import BACKENDS
from breastseg_deploy.bundle import FP16, NETWORK_FP16, Bundle
from breastseg_deploy.errors import BackendError, MachineError
from breastseg_deploy.gpu import onnxruntime_cuda as on_cuda
from breastseg_deploy.nvidia import DEVICE
from breastseg_deploy.phantom import phantom_frame
from breastseg_deploy.segmenter import Segmenter

_RACES = 100
_CALLS = 30
_BUSY = (8192, 50)
"""Side of a float32 array and how often it is copied before a frame is written: 27 GB read and written, which even at
4.8 TB/s takes longer than a call needs to reach its kernel."""


def tensorrt(settings: Settings) -> Finding:
    """The bundle through TensorRT."""
    return serve(settings, "tensorrt")


def tensorrt_rtx(settings: Settings) -> Finding:
    """The bundle through TensorRT-RTX."""
    return serve(settings, "tensorrt-rtx")


def onnxruntime_cuda(settings: Settings) -> Finding:
    """The bundle through ONNX Runtime, and where it has placed the network's nodes."""
    found = serve(settings, "onnxruntime-cuda")
    cupy: Any = needed_cupy()
    bundle = Bundle.open(settings.bundle)
    options = on_cuda.provider_options(cupy.cuda.Stream(non_blocking=True).ptr, DEVICE)
    content, place = bundle.read(NETWORK_FP16), bundle.path / NETWORK_FP16
    nodes = on_cuda.placement(on_cuda.open_session(on_cuda.load_onnxruntime_gpu(), place, content, options))
    return replace(found, figures={**found.figures, "nodes by provider": nodes})


def serve(settings: Settings, backend: str) -> Finding:
    """Open the bundle and see what it gives.

    Raises:
        Skip: the backend lacks something here.
    """
    cupy: Any = needed_cupy()
    started = time.perf_counter()
    with _opened(settings, backend) as segment:
        opened_s = time.perf_counter() - started
        return served(segment, cupy, opened_s)


def served(segment: Segmenter, cupy: Any, opened_s: float, calls: int = _CALLS) -> Finding:
    """Goldens and stages by an open segmenter, and the GPU's memory as each batch size is first used."""
    frame, memory = _frame(segment), {"opened": bytes_in_use(cupy)}
    for name, count in (("one frame", 1), ("eight frames", 8)):
        segment.batch([frame] * count)
        memory[name] = bytes_in_use(cupy)
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
        "GPU memory in use, bytes": memory,
        "stages of one frame, ms": stages,
        "stages of eight frames, ms": _stages(segment, [frame] * 8, calls),
    }
    words = f"goldens pass, worst Dice {worst:.6f}; {stages['total']:.2f} ms a frame"
    return Finding("passed", f"{words}; {memory['eight frames'] / 1e9:.2f} GB of the GPU in use", figures)


def race(settings: Settings) -> Finding:
    """Frames that a busy stream has yet to write, a hundred times: each must give the mask that it gives at rest."""
    cupy: Any = needed_cupy()
    with _opened(settings, None) as segment:
        return raced(segment, cupy, _RACES)


def raced(segment: Segmenter, cupy: Any, times: int, busy: tuple[int, int] = _BUSY) -> Finding:
    """`race` with an open segmenter: it proves nothing where the frames were written before they were passed.

    Args:
        segment: open.
        cupy: the module.
        times: how many frames.
        busy: side of an array, and how often it is copied before each frame is written.
    """
    frames = [_frame(segment), 255 - _frame(segment)]
    wanted = [segment(frame).mask for frame in frames]
    stream, wrong, unwritten = cupy.cuda.Stream(non_blocking=True), 0, 0
    place = cupy.empty(frames[0].shape, np.uint8)
    for number in range(times):
        with stream:
            copied = cupy.zeros((busy[0], busy[0]), np.float32)
            for _ in range(busy[1]):
                copied = copied.astype(np.float32, copy=True)
            place[...] = cupy.asarray(frames[number % 2])
            unwritten += not stream.record().done
            found = segment(place).mask
        wrong += not np.array_equal(found, wanted[number % 2])
    words = f"{wrong} of {times} frames read before they were written, by {segment.backend}"
    words += f"; {unwritten} were not yet written when they were passed"
    return Finding("failed" if wrong or 2 * unwritten < times else "passed", words)


def illegal_address(settings: Settings) -> Finding:
    """A kernel that writes nowhere: every later call must say in words that the GPU failed for good."""
    cupy: Any = needed_cupy()

    def write_nowhere() -> None:
        code = 'extern "C" __global__ void wild(int *p) { p[(1ll << 40) + threadIdx.x] = 1; }'
        cupy.RawModule(code=code).get_function("wild")((1,), (32,), (cupy.zeros(1, np.int32),))

    with _opened(settings, None) as segment:
        return broken(segment, write_nowhere)


def broken(segment: Segmenter, destroy: Callable[[], None]) -> Finding:
    """`illegal_address` with an open segmenter, and what destroys the process's CUDA context."""
    frame = _frame(segment)
    segment(frame)
    destroy()
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
    return benchmarked(
        [sys.executable, "-m", "breastseg_deploy.cli.main", "benchmark", settings.bundle, *options, "--json"],
        Path(settings.output) / "benchmark.json",
    )


def benchmarked(command: Sequence[str], place: Path) -> Finding:
    """`benchmark` by a command, which prints its JSON object last; that is kept at a place.

    Raises:
        Skip: this machine lacks something for all of its rows, or for the command itself.
    """
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    lines = done.stdout.strip().splitlines()
    last_words = (done.stderr.strip().splitlines() or ["no words"])[-1][:600]
    result: dict[str, Any] = json.loads(lines[-1]) if lines else {"error": last_words}
    rows: dict[str, Any] = {row["name"]: row for row in result.get("rows", ())}
    lacking = {name: row["not_run"] for name, row in rows.items() if row["not_run"] is not None}
    if done.returncode == MachineError.exit_code:
        raise Skip(result.get("error") or "; ".join(f"{name}: {why}" for name, why in lacking.items()))
    if done.returncode != 0:
        return Finding("failed", result.get("error") or f"the benchmark ended with exit code {done.returncode}")
    place.write_text(lines[-1])
    ran = {name: _row(row) for name, row in rows.items() if name not in lacking}
    words = ", ".join(f"{name} {row['median, ms']:.2f} ms a frame" for name, row in ran.items())
    return Finding("passed", f"{words}; all of it in {place.name}", {**ran, **lacking})


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    held = row["memory"]["gpu_process_bytes"]
    figures = {"median, ms": 1000 * row["latency"]["p50_s"], "99th percentile, ms": 1000 * row["latency"]["p99_s"]}
    return figures | ({"GB of the GPU": held / 1e9} if held is not None else {})


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
