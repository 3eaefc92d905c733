"""A TensorRT or TensorRT-RTX engine as a `GpuNetwork`. All of TensorRT that serving uses stands in this file."""

from __future__ import annotations

from typing import Any, cast

from breastseg_deploy.engines import log
from breastseg_deploy.engines.api import (
    ICudaEngine,
    IExecutionContext,
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
    captured from, and changing the shape of that context would make the graph undefined. The contexts' scratch memory
    comes from CuPy, as much as each batch size needs.

    Args:
        flavour: which TensorRT.
        plan: the serialised engine, its hash checked: it is native code.
        size_px: (H, W) of the frames.
        stream: the CuPy stream that it runs on.

    Raises:
        MachineError: the flavour is not installed.
        PlanError: the plan cannot be deserialised here.
        BackendError: the engine has other inputs and outputs than the float16 network.
    """

    def __init__(self, flavour: Flavour, plan: bytes, size_px: tuple[int, int], stream: Any) -> None:
        trt = load(flavour)
        self.name = f"{flavour.title} {version(trt)}"
        self.capturable = flavour.name == "tensorrt"  # TensorRT-RTX captures by itself, see `_runtime_config`
        self._size_px = size_px
        self._stream = stream
        log.forget_errors()
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

    def bind(self, tensor_address: int, logits_address: int, batch: int) -> _Bound:
        """A context for one batch size; see `GpuNetwork.bind`."""
        log.forget_errors()
        context = self._engine.create_execution_context(self._config)
        if context is None:
            raise BackendError(f"{self.name} cannot make room to run its engine: {log.first_error()}; free GPU memory")
        if not context.set_input_shape(self._tensor, (batch, 4, *self._size_px)):
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
        scratch = require("cupy", "gpu").empty((max(1, context.update_device_memory_size_for_shapes()),), "uint8")
        context.set_device_memory(scratch.data.ptr, scratch.nbytes)
        context.set_tensor_address(self._tensor, tensor_address)
        context.set_tensor_address(self._logits, logits_address)
        return _Bound(self.name, context, scratch, self._stream)


class _Bound:
    """A context with its addresses; `scratch` lives as long as it does."""

    def __init__(self, name: str, context: IExecutionContext, scratch: Any, stream: Any) -> None:
        self._name, self._context, self._scratch, self._stream = name, context, scratch, stream

    def enqueue(self) -> None:
        """See `BoundNetwork.enqueue`."""
        log.forget_errors()
        if not self._context.execute_async_v3(self._stream.ptr):
            raise BackendError(
                f"{self._name} failed: {log.first_error()}; no mask is returned: "
                "try again, then run `breastseg verify` on this bundle"
            )


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
    if flavour.name == "tensorrt-rtx":
        rtx, rtx_config = cast(TensorRTRtx, trt), cast(IRuntimeConfigRtx, config)
        rtx_config.dynamic_shapes_kernel_specialization_strategy = rtx.DynamicShapesKernelSpecializationStrategy.EAGER
        rtx_config.cuda_graph_strategy = rtx.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    return config
