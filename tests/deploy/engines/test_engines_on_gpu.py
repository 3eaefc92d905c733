"""Where a GPU is at hand: what was built is loaded."""

from __future__ import annotations

import importlib.util

import pytest
from small_network import ISLANDS, half_network

from breastseg_deploy.engines.build import BuiltEngine, build_engine, buildable_capabilities
from breastseg_deploy.engines.flavour import FLAVOURS, Flavour, load
from breastseg_deploy.engines.log import logger
from breastseg_deploy.engines.request import EngineRequest
from breastseg_deploy.errors import ArgumentError
from breastseg_deploy.nvidia import Gpu, look_for_gpu

TENSORRT, RTX = FLAVOURS["tensorrt"], FLAVOURS["tensorrt-rtx"]


def this_gpu() -> Gpu:
    found = look_for_gpu()
    assert isinstance(found, Gpu)
    return found


def loaded_types(flavour: Flavour, built: BuiltEngine) -> dict[str, str]:
    trt = load(flavour)
    runtime = trt.Runtime(logger(trt))
    engine = runtime.deserialize_cuda_engine(built.plan)
    assert engine is not None
    return {name: engine.get_tensor_dtype(name).name for name in ("tensor", "logits")}


@pytest.mark.gpu
def test_rtx_builds_for_this_gpu_and_loads_it_or_says_that_it_cannot() -> None:
    """TensorRT-RTX 1.7 knows no compute capability 9.0."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    request = EngineRequest(RTX, this_gpu().compute_capability)
    if request.compute_capability in buildable_capabilities(RTX):
        built = build_engine(half_network(), request, ISLANDS)
        assert loaded_types(RTX, built) == {"tensor": "FLOAT", "logits": "FLOAT"}
    else:
        with pytest.raises(ArgumentError, match="builds for the compute capabilities"):
            build_engine(half_network(), request, ISLANDS)


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt") is None or not isinstance(look_for_gpu(), Gpu),
    reason="needs TensorRT, whose libraries do not come from the package index, and a GPU",
)
def test_tensorrt_builds_and_reads_its_types_back_and_takes_its_own_timings() -> None:
    request = EngineRequest(TENSORRT, this_gpu().compute_capability)
    built = build_engine(half_network(), request, ISLANDS)  # which reads the engine's types back
    assert built.timing_cache
    assert loaded_types(TENSORRT, built) == {"tensor": "FLOAT", "logits": "FLOAT"}
    again = build_engine(half_network(), request, ISLANDS, timing_cache=built.timing_cache)
    assert again.type_histogram == built.type_histogram
