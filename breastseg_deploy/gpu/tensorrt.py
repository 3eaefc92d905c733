"""A TensorRT or TensorRT-RTX engine as a `GpuNetwork`. All of TensorRT that serving uses stands in this file."""

from __future__ import annotations

from typing import Any, Protocol, cast

from breastseg_deploy.engines import log
from breastseg_deploy.engines.api import (
    ICudaEngine,
    IExecutionContext,
    IRuntimeCacheRtx,
    IRuntimeConfig,
    IRuntimeConfigRtx,
    TensorRT,
    TensorRTRtx,
)
from breastseg_deploy.engines.flavour import Flavour, load, version
from breastseg_deploy.errors import BackendError
from breastseg_deploy.extras import require

FLOAT = "FLOAT"


class PlanError(BackendError):
    """TensorRT will not make an engine of a plan on this GPU."""


class TensorRtNetwork:
    """An engine, deserialised.

    Each batch size gets an execution context of its own: a CUDA graph holds the state of the context that it was
    captured from, and changing the shape of that context would make the graph undefined. All contexts compute in one
    block of scratch memory from CuPy, as large as the largest batch needs: they run on one stream, never at once. A
    graph holds its address, so it never grows.

    Args:
        flavour: which TensorRT.
        plan: the serialised engine, its hash checked: it is native code.
        size_px: (H, W) of the frames.
        stream: the CuPy stream that it runs on.
        kernels: where TensorRT-RTX keeps the kernels that it compiled; None to compile in every process.

    Raises:
        MachineError: the flavour is not installed.
        PlanError: the plan cannot be deserialised here.
        BackendError: the engine has other inputs and outputs than the float16 network, or does not say how much scratch
            memory it needs.
        MemoryError: CuPy's own, where the device is full.
    """

    @log.heard()
    def __init__(
        self,
        flavour: Flavour,
        plan: bytes,
        size_px: tuple[int, int],
        stream: Any,
        kernels: KernelStore | None = None,
    ) -> None:
        trt = load(flavour)
        self.name = f"{flavour.title} {version(trt)}"
        self.capturable = not flavour.compiles_kernels  # TensorRT-RTX captures by itself, see `_runtime_config`
        self._size_px = size_px
        self._stream = stream
        self._runtime = trt.Runtime(log.logger(trt))  # lives as long as its engine
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise PlanError(
                f"{self.name} cannot load this engine on this GPU: {log.first_error()}; "
                "run `breastseg doctor`, then empty the engine cache or export the bundle again"
            )
        self._engine: ICudaEngine = engine
        self._tensor, self._logits = _tensor_names(self.name, trt, engine)
        self._config = _runtime_config(flavour, trt, engine)
        self._kept = _kept_kernels(self._config, kernels) if flavour.compiles_kernels and kernels else None
        self._scratch = _scratch(self.name, engine)

    @log.heard()
    def bind(self, tensor_address: int, logits_address: int, batch: int) -> _Bound:
        """A context for one batch size; see `GpuNetwork.bind`."""
        context = self._engine.create_execution_context(self._config)
        if context is None:
            raise BackendError(f"{self.name} cannot make room to run its engine: {log.first_error()}; free GPU memory")
        profile = self._profile(batch)
        if (
            profile is None
            or not context.set_optimization_profile_async(profile, self._stream.ptr)
            or not context.set_input_shape(self._tensor, (batch, 4, *self._size_px))
        ):
            raise BackendError(
                f"the engine cannot take {batch} frames of {self._size_px}: {log.first_error()}; "
                "export the bundle again, or empty the engine cache"
            )
        shape = tuple(context.get_tensor_shape(self._logits))
        if shape != (batch, 1, *self._size_px):
            raise BackendError(
                f"the engine must answer with (N, 1, H, W) = {(batch, 1, *self._size_px)}, got {shape}; "
                "no mask is returned: export the bundle again, or empty the engine cache"
            )
        context.set_device_memory(self._scratch.data.ptr, self._scratch.nbytes)
        for tensor, address in ((self._tensor, tensor_address), (self._logits, logits_address)):
            if not context.set_tensor_address(tensor, address):
                raise BackendError(
                    f"{self.name} refuses the memory of its tensor {tensor!r}: {log.first_error()}; no mask is returned"
                )
        return _Bound(self.name, context, self._scratch, self._stream, self._kept)

    def _profile(self, batch: int) -> int | None:
        """The first optimisation profile that takes a batch: the one for one frame comes before those for more."""
        for index in range(self._engine.num_optimization_profiles):
            least, _, most = self._engine.get_tensor_profile_shape(self._tensor, index)
            if least[0] <= batch <= most[0]:
                return index
        return None


class _Bound:
    """A context with its addresses; `scratch` lives as long as it does."""

    def __init__(
        self, name: str, context: IExecutionContext, scratch: Any, stream: Any, kept: _KeptKernels | None
    ) -> None:
        self._name, self._context, self._scratch, self._stream, self._kept = name, context, scratch, stream, kept

    def enqueue(self) -> None:
        """See `BoundNetwork.enqueue`."""
        self._enqueue()
        if self._kept is not None:  # the first run has compiled what there is to compile
            self._kept.keep()
            self._kept = None

    @log.heard()
    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream.ptr):
            raise BackendError(
                f"{self._name} failed: {log.first_error()}; no mask is returned: "
                "try again, then run `breastseg verify` on this bundle"
            )


class KernelStore(Protocol):
    """Where kernels are kept between processes: this user's alone, because they are native code."""

    def read(self) -> bytes | None:
        """What was kept; None where nothing was."""

    def write(self, content: bytes) -> None:
        """Keep it; what cannot be kept is compiled again."""


class _KeptKernels:
    """TensorRT-RTX's own cache of kernels, and where it is kept."""

    def __init__(self, cache: IRuntimeCacheRtx, store: KernelStore) -> None:
        self._cache, self._store = cache, store

    def keep(self) -> None:
        self._store.write(bytes(self._cache.serialize()))


def _kept_kernels(config: IRuntimeConfig, store: KernelStore) -> _KeptKernels | None:
    """The cache of a configuration, filled with what was kept; TensorRT-RTX itself refuses what does not fit here."""
    rtx_config = cast(IRuntimeConfigRtx, config)
    cache = rtx_config.create_runtime_cache()
    kept = store.read()
    if kept is not None and not cache.deserialize(kept):
        log.LOG.info("kept kernels do not fit this GPU, driver or TensorRT-RTX; they are compiled again")
    if not rtx_config.set_runtime_cache(cache):
        log.LOG.warning("TensorRT-RTX takes no cache (%s); kernels are compiled in every process", log.first_error())
        return None
    return _KeptKernels(cache, store)


def _scratch(name: str, engine: ICudaEngine) -> Any:
    """Device memory that any one of the engine's contexts computes in."""
    size = engine.device_memory_size_v2
    if size <= 0:
        raise BackendError(
            f"{name} does not say how much memory its engine computes in (it says {size}): {log.first_error()}; "
            "no mask is returned: empty the engine cache, or export the bundle again"
        )
    return require("cupy", "gpu").empty((size,), "uint8")


def _tensor_names(name: str, trt: TensorRT, engine: ICudaEngine) -> tuple[str, str]:
    """The names of the engine's only input and only output, both float32."""
    found: dict[bool, list[str]] = {True: [], False: []}
    for number in range(engine.num_io_tensors):
        tensor = engine.get_tensor_name(number)
        found[engine.get_tensor_mode(tensor) == trt.TensorIOMode.INPUT].append(tensor)
    types = {tensor: engine.get_tensor_dtype(tensor).name for tensor in found[True] + found[False]}
    if (len(found[True]), len(found[False])) != (1, 1) or set(types.values()) != {FLOAT}:
        raise BackendError(
            f"the engine for {name} must have one input and one output, both {FLOAT}, got {types}; "
            "empty the engine cache, or export the bundle again"
        )
    return found[True][0], found[False][0]


def _runtime_config(flavour: Flavour, trt: TensorRT, engine: ICudaEngine) -> IRuntimeConfig:
    """How contexts are made: scratch memory is ours, and kernels never change under a context that has been proved.

    TensorRT-RTX compiles kernels for a shape when it first meets it. By default it does so in the background and
    exchanges the kernels while frames are being served; here it compiles before the first run of a batch size, so that
    what passed the goldens is what serves. It captures its own CUDA graph, since only it knows when that is possible.
    """
    config = engine.create_runtime_config()
    config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    if flavour.compiles_kernels:
        rtx, rtx_config = cast(TensorRTRtx, trt), cast(IRuntimeConfigRtx, config)
        rtx_config.dynamic_shapes_kernel_specialization_strategy = rtx.DynamicShapesKernelSpecializationStrategy.EAGER
        rtx_config.cuda_graph_strategy = rtx.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    return config
