"""Building with TensorRT-RTX, which needs no GPU: what is built, what is refused, and with which words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from onnx import TensorProto
from small_network import (
    ISLANDS,
    cast,
    custom_operation,
    float_network,
    half_convolution_of_a_float_tensor,
    half_network,
    network,
    nothing_heavy,
    sum_of_half_and_float,
)

from breastseg_deploy.engines.build import (
    BuiltEngine,
    build_engine,
    buildable_capabilities,
    configuration,
    put_timings,
    target_capability,
)
from breastseg_deploy.engines.flavour import FLAVOURS, load
from breastseg_deploy.engines.log import Progress, logger
from breastseg_deploy.engines.network import parse_network
from breastseg_deploy.engines.request import EngineRequest
from breastseg_deploy.errors import ArgumentError, BackendError
from breastseg_deploy.nvidia import NoGpu, look_for_gpu

pytest.importorskip(
    "tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'breastseg-deploy[tensorrt-rtx]'"
)

RTX = FLAVOURS["tensorrt-rtx"]


def build(content: bytes, islands: tuple[str, ...] = ISLANDS, capability: str = "8.6") -> BuiltEngine:
    return build_engine(content, EngineRequest(RTX, capability), islands)


def refusal(call: Callable[[], object], kind: type[Exception] = BackendError) -> str:
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def built() -> BuiltEngine:
    return build(half_network())


def test_an_engine_is_built_without_a_gpu(built: BuiltEngine) -> None:
    assert len(built.plan) > 10_000
    assert built.seconds > 0


def test_the_types_of_every_layer_are_read_back(built: BuiltEngine) -> None:
    assert built.type_histogram == {"CAST": {"FLOAT": 1, "HALF": 1}, "CONVOLUTION": {"FLOAT": 1, "HALF": 1}}


def test_tensorrt_rtx_keeps_no_timings(built: BuiltEngine) -> None:
    assert built.timing_cache is None


def test_the_builder_is_told_all_that_was_asked_for() -> None:
    trt: Any = load(RTX)
    request = EngineRequest(RTX, "8.9", workspace_bytes=123 << 20, max_batch=4)
    builder = trt.Builder(logger(trt))
    network, _parser = parse_network(trt, builder, half_network())
    target = target_capability(trt, request)
    config: Any = configuration(trt, builder, network, request, target, Progress(lambda _: None))
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 123 << 20
    assert config.num_compute_capabilities == 1
    assert config.get_compute_capability(0) == trt.ComputeCapability.SM89
    assert config.num_optimization_profiles == 2
    # TF32 would round the inputs of the float32 islands to ten bits.
    assert not config.get_flag(trt.BuilderFlag.TF32)


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX")
@pytest.mark.parametrize(("times_kernels", "level"), [(True, 5), (False, 3)])
def test_a_builder_that_times_kernels_compares_the_most(times_kernels: bool, level: int) -> None:
    """TensorRT-RTX in TensorRT's place; 3 is what a builder begins with."""
    trt: Any = load(RTX)
    request = EngineRequest(replace(RTX, builds_for_other_gpus=not times_kernels), "8.6")
    builder = trt.Builder(logger(trt))
    network, _parser = parse_network(trt, builder, half_network())
    config: Any = configuration(trt, builder, network, request, None, Progress(lambda _: None))
    assert config.builder_optimization_level == level


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX")
@pytest.mark.parametrize("timings", [None, b"no timings"])
def test_an_engine_that_cannot_be_loaded_where_it_was_built_is_refused(timings: bytes | None) -> None:
    """The way of TensorRT, with TensorRT-RTX in its place: timings, no compute capability, the engine read back."""
    if not isinstance(look_for_gpu(), NoGpu):
        pytest.skip("there is a GPU, so the engine can be loaded")
    as_tensorrt = replace(RTX, builds_for_other_gpus=False)
    said = refusal(
        lambda: build_engine(half_network(), EngineRequest(as_tensorrt, "8.6"), ISLANDS, timing_cache=timings)
    )
    assert said.startswith("TensorRT cannot load the engine that it has just built: ")
    assert "CUDA driver" in said


class Timings:
    """A builder's configuration as far as timings go; it takes those that it can read."""

    def __init__(self, *readable: bytes) -> None:
        self.readable = readable
        self.taken: list[bytes] = []

    def create_timing_cache(self, serialized_timing_cache: bytes) -> bytes:
        return serialized_timing_cache

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache in self.readable:
            self.taken.append(cache)
        return cache in self.readable


@pytest.mark.parametrize(
    ("readable", "taken", "words"),
    [
        ((b"earlier", b""), [b"earlier"], []),
        ((b"",), [b""], ["the timings of an earlier build do not fit"]),
        ((), [], ["the timings of an earlier build do not fit", "no timings can be kept for the next build"]),
    ],
)
def test_timings_that_tensorrt_refuses_are_told(
    readable: tuple[bytes, ...], taken: list[bytes], words: list[str]
) -> None:
    config: Any = Timings(*readable)
    told: list[str] = []
    put_timings(config, b"earlier", told.append)
    assert config.taken == taken
    assert [said.partition(" (")[0] for said in told] == words


def test_steps_and_result_are_told() -> None:
    told: list[str] = []
    build_engine(half_network(), EngineRequest(RTX, "8.9"), ISLANDS, told.append)
    assert "for compute capability 8.9, fp16, batches of 1 to 8" in told[0]
    assert "2 convolutions, 1 FLOAT, 1 HALF" in told[-1]


def test_a_float_convolution_outside_the_islands_is_refused() -> None:
    said = refusal(lambda: build(half_network(), ()))
    assert said.startswith("1 of the network's convolutions and matrix products must be HALF and are not")
    assert "the first is stem (FLOAT); no engine is built: export the checkpoint again" in said


def test_a_float_network_is_refused() -> None:
    assert "the first is body (FLOAT)" in refusal(lambda: build(float_network()))


def test_a_network_whose_every_convolution_is_an_island_is_refused() -> None:
    said = refusal(lambda: build(float_network(), ("stem", "body")))
    assert "no convolution of the network is HALF, so the engine would not be float16" in said


def test_a_network_without_convolutions_is_refused() -> None:
    assert "no convolution of the network is HALF" in refusal(lambda: build(nothing_heavy()))


def test_a_custom_operation_is_refused_by_name() -> None:
    said = refusal(lambda: build(custom_operation()))
    assert said.startswith("TensorRT cannot read the network at the node 'edge' (Gabor): ")
    assert said.endswith("no engine is built: export the checkpoint again with this version")


def test_mixed_types_are_refused_where_they_meet() -> None:
    assert "at the node 'body' (Conv)" in refusal(lambda: build(half_convolution_of_a_float_tensor()))
    said = refusal(lambda: build(sum_of_half_and_float()))
    assert "at the node 'mixed-sum' (Add)" in said
    assert "types Float and Half" in said


@pytest.mark.parametrize("content", [b"no network", half_network()[:400]], ids=["text", "truncated"])
def test_what_is_no_onnx_is_refused(content: bytes) -> None:
    assert "TensorRT cannot read the network" in refusal(lambda: build(content))


def test_an_empty_file_is_refused() -> None:
    assert "one input and one output, got 0 and 0" in refusal(lambda: build(b""))


def test_a_second_input_is_refused() -> None:
    nodes = [cast("tensor", "h", TensorProto.FLOAT16), cast("h", "logits", TensorProto.FLOAT)]
    assert "one input and one output, got 2 and 1" in refusal(lambda: build(network(nodes, inputs=2)))


def test_a_fixed_batch_is_refused() -> None:
    said = refusal(lambda: build(half_network(batch=1)))
    assert "a float32 tensor (N, C, H, W) with only N open, got FLOAT (1, 4, 32, 32)" in said


def test_capabilities_are_named_where_one_cannot_be_built_for() -> None:
    assert "8.6" in buildable_capabilities(RTX)
    said = refusal(lambda: build(half_network(), capability="6.1"), ArgumentError)
    assert "builds for the compute capabilities 7.5, 8.0, 8.6" in said
    assert "got 6.1" in said


def test_tensorrt_rtx_does_not_build_for_hopper() -> None:
    assert "9.0" not in buildable_capabilities(RTX)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, BrokenPipeError])
def test_ctrl_c_stops_the_builder_and_is_raised_after_it(kind: type[BaseException]) -> None:
    """The bindings end the process where an exception crosses the builder."""
    told: list[str] = []

    def say(words: str) -> None:
        told.append(words)
        if len(told) > 1:  # the first sentence comes before the build
            raise kind

    with pytest.raises(kind):
        build_engine(half_network(), EngineRequest(RTX, "8.6"), ISLANDS, say, say_every_s=0.0)
    assert told[-1].startswith("building: ")


@pytest.mark.parametrize(("every_s", "words"), [(0.0, ["building: timing tactics, step 2 of 3"]), (60.0, [])])
def test_progress_is_told_now_and_then(every_s: float, words: list[str]) -> None:
    told: list[str] = []
    progress = Progress(told.append, every_s)
    progress.start("Timing tactics", 3)
    assert progress.step("Timing tactics", 1)
    assert told == words
