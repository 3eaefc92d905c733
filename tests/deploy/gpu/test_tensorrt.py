"""An engine as the pipeline uses it, over a stand-in that is as particular as TensorRT; its names are held to the real
bindings in `engines/test_bindings.py`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from cuda_cpu import fake_cupy
from host_network import FRAMES, SIDE, all_passed, at_address, light_logits, light_probability

from breastseg_deploy import BackendError
from breastseg_deploy.bundle import Bundle
from breastseg_deploy.engines import log
from breastseg_deploy.engines.flavour import FLAVOURS, FlavourName
from breastseg_deploy.gpu.pipeline import GpuPipeline
from breastseg_deploy.gpu.tensorrt import PlanError, TensorRtNetwork

PLAN = b"a plan"


class StandIn:
    """A TensorRT module whose engines add two channels; `faults` names what goes wrong."""

    __version__ = "10.16.1.11"
    TensorIOMode = SimpleNamespace(INPUT="INPUT", OUTPUT="OUTPUT")
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="USER_MANAGED")
    CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="WHOLE_GRAPH_CAPTURE")
    DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="EAGER")

    class ILogger:
        INTERNAL_ERROR, ERROR, VERBOSE = (SimpleNamespace(name=name) for name in ("INTERNAL_ERROR", "ERROR", "VERBOSE"))

        def log(self, severity: Any, msg: str) -> None: ...

    def __init__(self, *faults: str) -> None:
        self.faults = faults
        self.contexts: list[Context] = []
        self.logger: Any = None

    def Runtime(self, logger: Any) -> Runtime:  # noqa: N802 - TensorRT's name
        self.logger = logger
        return Runtime(self)

    def complain(self, what: str) -> None:
        self.logger.log(self.ILogger.ERROR, f"Error Code 1: {what}\n(in the stand-in)")


class Runtime:
    def __init__(self, trt: StandIn) -> None:
        self._trt = trt

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        if plan != PLAN:
            self._trt.complain("the plan was made by another version")
            return None
        return Engine(self._trt)


class Engine:
    def __init__(self, trt: StandIn) -> None:
        self._trt = trt
        self._tensors = {"tensor": "INPUT", "logits": "OUTPUT"}
        if "two outputs" in trt.faults:
            self._tensors["more"] = "OUTPUT"

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> str:
        return self._tensors[name]

    num_optimization_profiles = 2

    @property
    def device_memory_size_v2(self) -> int:
        return 0 if "no scratch" in self._trt.faults else 8000

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> Sequence[Sequence[int]]:
        return [(batch, 4, SIDE, SIDE) for batch in ((1, 1, 1), (1, 8, 8))[profile_index]]

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name="HALF" if "half logits" in self._trt.faults and name == "logits" else "FLOAT")

    def create_runtime_config(self) -> Config:
        return Config()

    def create_execution_context(self, runtime_config: Config) -> Context | None:
        if "no memory" in self._trt.faults:
            self._trt.complain("out of memory")
            return None
        self._trt.contexts.append(Context(self._trt, runtime_config))
        return self._trt.contexts[-1]


class RuntimeCache:
    """Holds what was compiled; `kernels` is bytes that name it."""

    def __init__(self) -> None:
        self.kernels: set[str] = set()

    def deserialize(self, blob: bytes) -> bool:
        if not blob.startswith(b"kernels "):
            return False
        self.kernels = set(blob.decode().split()[1:])
        return True

    def serialize(self) -> bytes:
        return " ".join(["kernels", *sorted(self.kernels)]).encode()


class Config:
    cache: RuntimeCache | None = None
    refuses_cache = False

    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache()

    def set_runtime_cache(self, cache: RuntimeCache) -> bool:
        self.cache = None if self.refuses_cache else cache
        return not self.refuses_cache

    allocation: str | None = None
    cuda_graph_strategy: str | None = None
    dynamic_shapes_kernel_specialization_strategy: str | None = None

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self.allocation = strategy


class Context:
    """Insists on the order of calls that TensorRT documents."""

    def __init__(self, trt: StandIn, config: Config) -> None:
        self.config = config
        self.shape: tuple[int, ...] | None = None
        self.scratch: tuple[int, int] | None = None
        self.addresses: dict[str, int] = {}
        self.streams: list[int] = []
        self.profile = 0
        self.compiled: list[str] = []
        self._trt = trt

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        if "no profile" in self._trt.faults:
            self._trt.complain("profile is in use")
            return False
        self.profile = profile_index
        return True

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        assert self.shape is None, "a graph may have been captured from this context"
        if name != "tensor" or "no batches" in self._trt.faults:
            self._trt.complain(f"{shape} is not in the profile")
            return False
        self.shape = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> Sequence[int]:
        assert self.shape is not None
        return (self.shape[0], 2 if "two channels" in self._trt.faults else 1, *self.shape[2:])

    def set_device_memory(self, memory: int, size: int) -> None:
        assert memory
        self.scratch = memory, size

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if "no address" in self._trt.faults and name == "logits":
            self._trt.complain("memory is not aligned")
            return False
        self.addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert self.shape is not None
        assert self.scratch is not None, "no memory to compute in"
        self.streams.append(stream_handle)
        kernel = f"batch-{self.shape[0]}"
        if self.config.cache is None or kernel not in self.config.cache.kernels:
            self.compiled.append(kernel)
        if self.config.cache is not None:
            self.config.cache.kernels.add(kernel)
        if "fails" in self._trt.faults:
            self._trt.complain("illegal memory access")
            return False
        fake_cupy.cuda.ExternalStream(stream_handle).put(self._compute)
        return True

    def _compute(self) -> None:
        assert self.shape is not None
        tensor = at_address(self.addresses["tensor"], self.shape)
        at_address(self.addresses["logits"], (self.shape[0], 1, *self.shape[2:]))[...] = light_logits(tensor)


@pytest.fixture
def stream(cupy_on_cpu: ModuleType) -> Any:
    return cupy_on_cpu.cuda.Stream(non_blocking=True)


def opened(
    monkeypatch: pytest.MonkeyPatch,
    trt: StandIn,
    stream: Any,
    name: FlavourName = "tensorrt",
    plan: bytes = PLAN,
    kernels: Kept | None = None,
) -> TensorRtNetwork:
    monkeypatch.setitem(sys.modules, FLAVOURS[name].module, cast(ModuleType, trt))
    return TensorRtNetwork(FLAVOURS[name], plan, (SIDE, SIDE), stream, kernels)


def bind(network: TensorRtNetwork, batch: int = 1) -> Any:
    tensor, logits = np.zeros((batch, 4, SIDE, SIDE), np.float32), np.zeros((batch, 1, SIDE, SIDE), np.float32)
    bound = network.bind(tensor.ctypes.data, logits.ctypes.data, batch)
    return SimpleNamespace(enqueue=bound.enqueue, memory=(tensor, logits))


def test_pipeline_around_an_engine_gives_what_the_engine_computes(
    monkeypatch: pytest.MonkeyPatch, cupy_on_cpu: ModuleType, bundle: Bundle
) -> None:
    trt = StandIn()
    pipeline = GpuPipeline(bundle, lambda stream: opened(monkeypatch, trt, stream, "tensorrt-rtx"), all_passed)
    for count in (1, 3, 1):
        found = pipeline.infer(FRAMES[:count]).probability
        np.testing.assert_allclose(found, light_probability(FRAMES[:count], bundle), atol=1e-6)


def test_each_batch_size_has_a_context_and_profile_of_its_own_and_all_share_one_scratch_memory(
    monkeypatch: pytest.MonkeyPatch, stream: Any
) -> None:
    trt = StandIn()
    network = opened(monkeypatch, trt, stream)
    kept = [bind(network, batch) for batch in (1, 8)]
    assert len(kept) == 2
    assert [context.shape for context in trt.contexts] == [(1, 4, SIDE, SIDE), (8, 4, SIDE, SIDE)]
    assert [context.profile for context in trt.contexts] == [0, 1]
    (scratch,) = {context.scratch for context in trt.contexts}
    assert scratch is not None
    assert scratch[1] == 8000


def test_every_run_is_put_on_the_pipelines_stream(monkeypatch: pytest.MonkeyPatch, stream: Any) -> None:
    trt = StandIn()
    bound = bind(opened(monkeypatch, trt, stream))
    bound.enqueue()
    bound.enqueue()
    assert trt.contexts[0].streams == [stream.ptr] * 2


def test_tensorrt_may_be_captured_by_us_and_rtx_captures_itself(monkeypatch: pytest.MonkeyPatch, stream: Any) -> None:
    trt = StandIn()
    ours, rtx = opened(monkeypatch, trt, stream), opened(monkeypatch, trt, stream, "tensorrt-rtx")
    assert (ours.capturable, rtx.capturable) == (True, False)
    bind(ours)
    bind(rtx)
    configs = [context.config for context in trt.contexts]
    assert [config.allocation for config in configs] == ["USER_MANAGED"] * 2
    assert [config.cuda_graph_strategy for config in configs] == [None, "WHOLE_GRAPH_CAPTURE"]


def test_rtx_never_exchanges_the_kernels_of_a_shape_that_was_proved(
    monkeypatch: pytest.MonkeyPatch, stream: Any
) -> None:
    trt = StandIn()
    bind(opened(monkeypatch, trt, stream, "tensorrt-rtx"))
    assert trt.contexts[0].config.dynamic_shapes_kernel_specialization_strategy == "EAGER"


def test_a_plan_that_cannot_be_loaded_is_refused_with_tensorrts_reason(
    monkeypatch: pytest.MonkeyPatch, stream: Any
) -> None:
    with pytest.raises(PlanError) as failure:
        opened(monkeypatch, StandIn(), stream, plan=b"another plan")
    assert str(failure.value) == (
        "TensorRT 10.16.1.11 cannot load this engine on this GPU: Error Code 1: the plan was made by another version "
        "(in the stand-in); run `breastseg doctor`, then empty the engine cache or export the bundle again"
    )


def test_the_real_tensorrt_rtx_refuses_what_is_no_plan_in_its_own_words(stream: Any) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    with pytest.raises(PlanError, match=r"^TensorRT-RTX 1\.[\d.]+ cannot load this engine on this GPU: .*Error"):
        TensorRtNetwork(FLAVOURS["tensorrt-rtx"], b"no plan", (SIDE, SIDE), stream)


@pytest.mark.parametrize(
    ("fault", "words"),
    [("two outputs", "must have one input and one output"), ("half logits", "both FLOAT, got .*'logits': 'HALF'")],
)
def test_an_engine_of_another_network_is_refused(
    monkeypatch: pytest.MonkeyPatch, stream: Any, fault: str, words: str
) -> None:
    with pytest.raises(BackendError, match=words):
        opened(monkeypatch, StandIn(fault), stream)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("no memory", r"cannot make room to run its engine: Error Code 1: out of memory"),
        ("no profile", r"the engine cannot take 3 frames of \(128, 128\): Error Code 1: profile is in use"),
        ("no address", r"refuses the memory of its tensor 'logits': Error Code 1: memory is not aligned"),
        ("no batches", r"the engine cannot take 3 frames of \(128, 128\): Error Code 1: .* is not in the profile"),
        ("two channels", r"\(N, 1, H, W\) = \(3, 1, 128, 128\), got \(3, 2, 128, 128\); no mask is returned"),
    ],
)
def test_a_batch_size_that_the_engine_cannot_take_is_refused(
    monkeypatch: pytest.MonkeyPatch, stream: Any, fault: str, words: str
) -> None:
    network = opened(monkeypatch, StandIn(fault), stream)
    with pytest.raises(BackendError, match=words):
        bind(network, 3)


def test_a_batch_that_no_profile_takes_is_refused(monkeypatch: pytest.MonkeyPatch, stream: Any) -> None:
    with pytest.raises(BackendError, match=r"the engine cannot take 9 frames of \(128, 128\)"):
        bind(opened(monkeypatch, StandIn(), stream), 9)


def test_an_engine_that_does_not_say_what_memory_it_needs_is_refused(
    monkeypatch: pytest.MonkeyPatch, stream: Any
) -> None:
    with pytest.raises(BackendError, match=r"does not say how much memory its engine computes in \(it says 0\)"):
        opened(monkeypatch, StandIn("no scratch"), stream)


class Kept:
    """A place for kernels."""

    def __init__(self, content: bytes | None = None) -> None:
        self.content = content

    def read(self) -> bytes | None:
        return self.content

    def write(self, content: bytes) -> None:
        self.content = content


def test_rtx_compiles_kernels_once_for_all_processes(monkeypatch: pytest.MonkeyPatch, stream: Any) -> None:
    kept = Kept()
    for compiled in (["batch-1"], []):
        trt = StandIn()
        bound = bind(opened(monkeypatch, trt, stream, "tensorrt-rtx", kernels=kept))
        bound.enqueue()
        assert trt.contexts[0].compiled == compiled
    assert kept.content == b"kernels batch-1"


def test_kept_kernels_that_rtx_refuses_are_compiled_again(monkeypatch: pytest.MonkeyPatch, stream: Any) -> None:
    kept, trt = Kept(b"of another driver"), StandIn()
    bound = bind(opened(monkeypatch, trt, stream, "tensorrt-rtx", kernels=kept))
    bound.enqueue()
    assert trt.contexts[0].compiled == ["batch-1"]
    assert kept.content == b"kernels batch-1"


def test_without_a_place_for_kernels_rtx_keeps_none(
    monkeypatch: pytest.MonkeyPatch, stream: Any, caplog: pytest.LogCaptureFixture
) -> None:
    kept, trt = Kept(), StandIn()
    caplog.set_level("WARNING", logger=log.LOG.name)
    monkeypatch.setattr(Config, "refuses_cache", True)
    bound = bind(opened(monkeypatch, trt, stream, "tensorrt-rtx", kernels=kept))
    bound.enqueue()
    assert kept.content is None
    assert "kernels are compiled in every process" in caplog.text


def test_a_run_that_fails_is_an_error_with_tensorrts_reason(monkeypatch: pytest.MonkeyPatch, stream: Any) -> None:
    bound = bind(opened(monkeypatch, StandIn("fails"), stream))
    with pytest.raises(BackendError, match=r"failed: Error Code 1: illegal memory access .*; no mask is returned"):
        bound.enqueue()
