"""The part of TensorRT's Python interface that this project uses, and nothing else.

Every class is named after the one it describes. mypy holds the code to what is written here, and the tests hold what
is written here to the real bindings of every supported version: a method that one of them lacks is found without a GPU.
Code that needs more of TensorRT adds it here first.
"""

# The names are TensorRT's own.
# ruff: noqa: N802, D102

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol


class TensorRT(Protocol):
    """The module: `tensorrt` or `tensorrt_rtx`."""

    __version__: str

    def __hash__(self) -> int: ...
    @property
    def Builder(self) -> Callable[[ILogger], Builder]: ...
    @property
    def OnnxParser(self) -> Callable[[INetworkDefinition, ILogger], OnnxParser]: ...
    @property
    def Runtime(self) -> Callable[[ILogger], Runtime]: ...
    @property
    def ILogger(self) -> type[ILogger]: ...

    @property
    def IProgressMonitor(self) -> type[IProgressMonitor]: ...
    @property
    def DataType(self) -> DataType: ...
    @property
    def LayerType(self) -> LayerType: ...
    @property
    def NetworkDefinitionCreationFlag(self) -> NetworkDefinitionCreationFlag: ...
    @property
    def BuilderFlag(self) -> BuilderFlag: ...
    @property
    def MemoryPoolType(self) -> MemoryPoolType: ...
    @property
    def ProfilingVerbosity(self) -> ProfilingVerbosity: ...
    @property
    def LayerInformationFormat(self) -> LayerInformationFormat: ...
    @property
    def TensorIOMode(self) -> TensorIOMode: ...
    @property
    def ExecutionContextAllocationStrategy(self) -> ExecutionContextAllocationStrategy: ...


class TensorRTRtx(TensorRT, Protocol):
    """What TensorRT-RTX has besides."""

    @property
    def ComputeCapability(self) -> ComputeCapability: ...
    @property
    def CudaGraphStrategy(self) -> CudaGraphStrategy: ...
    @property
    def DynamicShapesKernelSpecializationStrategy(self) -> DynamicShapesKernelSpecializationStrategy: ...


class Enumerator(Protocol):
    """A value of any of TensorRT's enumerations; described here, not a class of TensorRT."""

    @property
    def name(self) -> str: ...
    def __int__(self) -> int: ...


class DataType(Protocol):
    """Types of tensors."""

    FLOAT: Enumerator
    HALF: Enumerator


class LayerType(Protocol):
    """Kinds of layers."""

    CONVOLUTION: Enumerator
    DECONVOLUTION: Enumerator
    MATRIX_MULTIPLY: Enumerator


class NetworkDefinitionCreationFlag(Protocol):
    """Its number differs between versions: 1 in 10.16, 0 in 11.x and RTX."""

    STRONGLY_TYPED: Enumerator


class BuilderFlag(Protocol):
    """Flags of the builder."""

    TF32: Enumerator


class MemoryPoolType(Protocol):
    """Kinds of memory that the builder may be limited in."""

    WORKSPACE: Enumerator


class ProfilingVerbosity(Protocol):
    """How much an engine tells about its layers."""

    DETAILED: Enumerator


class LayerInformationFormat(Protocol):
    """How the inspector writes."""

    JSON: Enumerator


class TensorIOMode(Protocol):
    """Whether a tensor goes in or comes out."""

    INPUT: Enumerator
    OUTPUT: Enumerator


class ComputeCapability(Protocol):
    """Of TensorRT-RTX alone; members are named SM86 and the like."""

    __members__: Mapping[str, Enumerator]


class ExecutionContextAllocationStrategy(Protocol):
    """Whose memory an execution context computes in."""

    USER_MANAGED: Enumerator


class CudaGraphStrategy(Protocol):
    """Of TensorRT-RTX alone: whether it captures CUDA graphs by itself."""

    WHOLE_GRAPH_CAPTURE: Enumerator


class DynamicShapesKernelSpecializationStrategy(Protocol):
    """Of TensorRT-RTX alone: when it compiles kernels for a shape."""

    EAGER: Enumerator


class ILogger(Protocol):
    """Takes TensorRT's messages; made by `engines.log.logger`."""

    INTERNAL_ERROR: Enumerator
    ERROR: Enumerator
    VERBOSE: Enumerator

    def log(self, severity: Enumerator, msg: str) -> None: ...


class IProgressMonitor(Protocol):
    """Is told about the build; made by `engines.log.progress_monitor`."""

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None: ...
    def step_complete(self, phase_name: str, step: int) -> bool: ...
    def phase_finish(self, phase_name: str) -> None: ...


class Builder(Protocol):
    """Makes networks and engines."""

    def create_network(self, flags: int) -> INetworkDefinition: ...
    def create_builder_config(self) -> IBuilderConfig: ...
    def create_optimization_profile(self) -> IOptimizationProfile: ...
    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None: ...


class IHostMemory(Protocol):
    """Bytes that TensorRT owns; `bytes()` copies them."""

    @property
    def nbytes(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...


class IOptimizationProfile(Protocol):
    """The shapes that an engine takes, and those it is tuned for."""

    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None: ...  # noqa: A002


class ITimingCache(Protocol):
    """Timings of an earlier build."""

    def serialize(self) -> IHostMemory: ...


class IBuilderConfig(Protocol):
    """How to build."""

    progress_monitor: Any
    profiling_verbosity: Enumerator
    builder_optimization_level: int

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int: ...
    def set_memory_pool_limit(self, pool: Enumerator, pool_size: int) -> None: ...
    def clear_flag(self, flag: Enumerator) -> None: ...
    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None: ...
    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool: ...
    def get_timing_cache(self) -> ITimingCache | None: ...


class IBuilderConfigRtx(IBuilderConfig, Protocol):
    """What `IBuilderConfig` has besides in TensorRT-RTX."""

    num_compute_capabilities: int

    def set_compute_capability(self, compute_capability: Enumerator, index: int) -> bool: ...


class ITensor(Protocol):
    """A tensor of a network."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> Enumerator: ...
    @property
    def shape(self) -> Sequence[int]: ...


class ILayer(Protocol):
    """A layer of a network."""

    @property
    def name(self) -> str: ...
    @property
    def type(self) -> Enumerator: ...
    @property
    def num_inputs(self) -> int: ...
    @property
    def num_outputs(self) -> int: ...
    def get_input(self, index: int) -> ITensor | None: ...
    def get_output(self, index: int) -> ITensor: ...


class INetworkDefinition(Protocol):
    """A network as the parser makes it."""

    @property
    def num_inputs(self) -> int: ...
    @property
    def num_outputs(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    def get_input(self, index: int) -> ITensor: ...
    def get_output(self, index: int) -> ITensor: ...
    def get_layer(self, index: int) -> ILayer: ...


class ParserError(Protocol):
    """One complaint of the parser."""

    def desc(self) -> str: ...
    def node_name(self) -> str: ...
    def node_operator(self) -> str: ...


class OnnxParser(Protocol):
    """Reads ONNX into a network."""

    @property
    def num_errors(self) -> int: ...
    def parse(self, model: bytes) -> bool: ...
    def get_error(self, index: int) -> ParserError: ...


class Runtime(Protocol):
    """Loads engines."""

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None: ...


class EngineInspector(Protocol):
    """Tells what is inside an engine."""

    def get_engine_information(self, format: Enumerator) -> str: ...  # noqa: A002


class ICudaEngine(Protocol):
    """A loaded engine."""

    @property
    def num_io_tensors(self) -> int: ...
    @property
    def num_optimization_profiles(self) -> int: ...
    @property
    def device_memory_size_v2(self) -> int: ...
    def get_tensor_name(self, index: int) -> str: ...
    def get_tensor_mode(self, name: str) -> Enumerator: ...
    def get_tensor_dtype(self, name: str) -> Enumerator: ...
    def get_tensor_shape(self, name: str) -> Sequence[int]: ...
    def get_tensor_profile_shape(self, name: str, profile_index: int) -> Sequence[Sequence[int]]: ...
    def create_runtime_config(self) -> IRuntimeConfig: ...
    def create_execution_context(self, runtime_config: IRuntimeConfig) -> IExecutionContext | None: ...
    def create_engine_inspector(self) -> EngineInspector: ...


class IRuntimeConfig(Protocol):
    """How execution contexts are made."""

    def set_execution_context_allocation_strategy(self, strategy: Enumerator) -> None: ...


class IRuntimeConfigRtx(IRuntimeConfig, Protocol):
    """What `IRuntimeConfig` has besides in TensorRT-RTX."""

    cuda_graph_strategy: Enumerator
    dynamic_shapes_kernel_specialization_strategy: Enumerator

    def create_runtime_cache(self) -> IRuntimeCacheRtx: ...
    def set_runtime_cache(self, cache: IRuntimeCacheRtx) -> bool: ...


class IRuntimeCacheRtx(Protocol):
    """Of TensorRT-RTX alone: kernels that were compiled for a GPU."""

    def serialize(self) -> IHostMemory: ...
    def deserialize(self, blob: bytes) -> bool: ...


class IExecutionContext(Protocol):
    """Runs an engine."""

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool: ...
    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool: ...
    def get_tensor_shape(self, name: str) -> Sequence[int]: ...
    def set_device_memory(self, memory: int, size: int) -> None: ...
    def set_tensor_address(self, name: str, memory: int) -> bool: ...
    def execute_async_v3(self, stream_handle: int) -> bool: ...
