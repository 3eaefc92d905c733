"""A B7 with random weights, 512 x 512: written here by the export code, then timed in each engine, network alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from breastseg_benchmark.gpu_check.machine import bytes_in_use, needed_cupy
from breastseg_benchmark.gpu_check.step import Finding, Settings, Skip, in_words
from breastseg_deploy.errors import MachineError
from breastseg_deploy.gpu import onnxruntime_cuda
from breastseg_deploy.gpu.graph import BoundNetwork, GpuNetwork, launcher
from breastseg_deploy.machine import Machine
from breastseg_deploy.nvidia import DEVICE, NoGpu

_SIZE = (512, 512)
_BATCHES = (1, 8)
_RUNS = 30
_ONE_FRAME = "1 frames, ms"
_VARIANTS: Mapping[str, Mapping[str, str]] = {
    "plain": {"prefer_nhwc": "0", "enable_cuda_graph": "0"},
    "channels last": {"prefer_nhwc": "1", "enable_cuda_graph": "0"},
    "graph": {"prefer_nhwc": "0", "enable_cuda_graph": "1"},
    "channels last, graph": {"prefer_nhwc": "1", "enable_cuda_graph": "1"},
}


def write_b7(settings: Settings, architecture: Any = None, size_px: tuple[int, int] = _SIZE) -> Finding:
    """Export a B7 with random weights to float16, its pools in float32; parity is no subject here.

    Raises:
        Skip: PyTorch, or another library of the extra `export`, is not installed.
    """
    try:
        from breastseg_export.graph import export_network
        from breastseg_export.precision.half import half_network
        from breastseg_export.precision.ranges import POOLS
        from breastseg_train.network.architecture import Architecture
        from breastseg_train.network.model import SegmentationModel
    except ImportError as err:
        raise Skip(f"the export code needs {err.name}: pip install 'breastseg-deploy[export]'") from err
    started = time.perf_counter()
    model = SegmentationModel(architecture or Architecture("efficientnet-b7")).eval()
    network = export_network(model, size_px)
    pools = [node.name for node in network.graph.node if node.op_type in POOLS]
    content = half_network(network, pools).SerializeToString()
    settings.b7_network.write_bytes(content)
    return Finding("passed", f"{len(content) / 1e6:.0f} MB in {time.perf_counter() - started:.0f} s")


def b7_onnxruntime(settings: Settings) -> Finding:
    """ONNX Runtime with and without channels last and its CUDA graph.

    Raises:
        Skip: there is no GPU, no network, or no onnxruntime-gpu.
    """
    cupy: Any = needed_cupy()
    network = _network(settings)
    try:
        ort = onnxruntime_cuda.load_onnxruntime_gpu()
    except MachineError as err:
        raise Skip(str(err)) from err

    def opened(stream: Any, changes: Mapping[str, str]) -> GpuNetwork:
        options = {**onnxruntime_cuda.provider_options(stream.ptr, DEVICE), **changes}
        session = onnxruntime_cuda.open_session(ort, network, network.read_bytes(), options)
        return onnxruntime_cuda.OnnxRuntimeNetwork(ort, session, _SIZE, ("cuda", DEVICE))

    return variants(cupy, opened)


def variants(
    cupy: Any, opened: Callable[[Any, Mapping[str, str]], GpuNetwork], size_px: tuple[int, int] = _SIZE
) -> Finding:
    """Every variant of ONNX Runtime's options in turn.

    Args:
        cupy: the module.
        opened: opens the network on a stream, with some of the provider's options changed.
        size_px: (H, W) of its frames.
    """

    def run(changes: Mapping[str, str]) -> dict[str, float]:
        stream = cupy.cuda.Stream(non_blocking=True)
        return timed(cupy, stream, opened(stream, changes).bind, capture=False, size_px=size_px)

    return tried({name: partial(run, changes) for name, changes in _VARIANTS.items()})


def b7_tensorrt(settings: Settings, machine: Machine | None = None, size_px: tuple[int, int] = _SIZE) -> Finding:
    """TensorRT and TensorRT-RTX, where they are: the build, then the engine's time.

    Raises:
        Skip: there is no GPU, no network, or neither TensorRT.
    """
    from breastseg_deploy.engines.build import build_engine, buildable_capabilities
    from breastseg_deploy.engines.flavour import FLAVOURS, Flavour
    from breastseg_deploy.engines.request import EngineRequest
    from breastseg_deploy.gpu.tensorrt import TensorRtNetwork

    cupy: Any = needed_cupy()
    network, gpu = _network(settings), (machine or Machine()).gpu
    if isinstance(gpu, NoGpu):
        raise Skip(gpu.reason)

    def run(flavour: Flavour) -> dict[str, Any]:
        able = buildable_capabilities(flavour)
        if able and gpu.compute_capability not in able:
            raise MachineError(f"it builds for {', '.join(able)} alone")
        stream = cupy.cuda.Stream(non_blocking=True)
        request = EngineRequest(flavour, gpu.compute_capability, gpu=gpu.name)
        built = build_engine(network.read_bytes(), request, islands=())
        opened = TensorRtNetwork(flavour, built.plan, size_px, stream)
        found = timed(cupy, stream, opened.bind, capture=opened.capturable, size_px=size_px)
        return {**found, "build, s": built.seconds, "convolutions": str(built.convolutions or "not told")}

    return tried({flavour.name: partial(run, flavour) for flavour in FLAVOURS.values()})


def timed(
    cupy: Any,
    stream: Any,
    bind: Callable[[int, int, int], BoundNetwork],
    *,
    capture: bool,
    size_px: tuple[int, int] = _SIZE,
) -> dict[str, float]:
    """The device's own median time of one run, in milliseconds, and the GPU's memory in use after each batch size."""
    figures: dict[str, float] = {}
    kept = []  # both batch sizes at once, as a pipeline holds them
    for batch in _BATCHES:
        tensor = cupy.zeros((batch, 4, *size_px), np.float32)
        logits = cupy.empty((batch, 1, *size_px), np.float32)
        run = launcher("the B7", bind(tensor.data.ptr, logits.data.ptr, batch), stream, capture=capture)
        kept.append((tensor, logits, run))
        before, after = cupy.cuda.Event(), cupy.cuda.Event()
        times_ms = []
        for _ in range(_RUNS + 10):
            before.record(stream)
            run()
            after.record(stream)
            stream.synchronize()
            times_ms.append(float(cupy.cuda.get_elapsed_time(before, after)))
        figures[f"{batch} frames, ms"] = median(times_ms[10:])
        figures[f"GB of the GPU in use after {batch}"] = bytes_in_use(cupy) / 1e9
    return figures


def _network(settings: Settings) -> Path:
    if not settings.b7_network.exists():
        raise Skip("the step b7-network wrote no network")
    return settings.b7_network


def tried(ways: Mapping[str, Callable[[], Mapping[str, Any]]]) -> Finding:
    """Each way in turn, whatever becomes of the others: one that fails is a failure, one that lacks something is none.

    Raises:
        Skip: all of them lack something.
    """
    ran: dict[str, Mapping[str, Any]] = {}
    failed: dict[str, str] = {}
    lacking: dict[str, str] = {}
    for name, way in ways.items():
        try:
            ran[name] = way()
        except MachineError as err:
            lacking[name] = str(err)
        except Exception as err:  # CUDA errors, engines' own, ours: each is this way's finding
            failed[name] = in_words(err)
    if not ran and not failed:
        raise Skip(_listed(lacking))
    words = [f"one frame: {', '.join(f'{name} {one[_ONE_FRAME]:.2f} ms' for name, one in ran.items())}"] if ran else []
    words += [f"failed: {_listed(failed)}"] if failed else []
    return Finding("failed" if failed else "passed", "; ".join(words)[:600], {**ran, **failed, **lacking})


def _listed(reasons: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {why}" for name, why in reasons.items())
