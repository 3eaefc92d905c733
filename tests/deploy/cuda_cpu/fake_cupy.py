"""The few names of CuPy that the runtime uses, over NumPy, with kernels compiled for the CPU.

It stands in for the device, not for CuPy: what the code around a kernel does (which buffer, which stream, which error)
and what the kernel computes are the real thing. It is as strict as CuPy where that matters: device arrays do not turn
into NumPy arrays by themselves, and kernels take device arrays and numbers. `allocations` and `launches` count, so that
a test can show that a call makes no new buffer.
"""

from __future__ import annotations

import ctypes
import types
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from cuda_cpu import fake_streams as streams
from cuda_cpu.compiled import CpuModule, scalar
from cuda_cpu.fake_streams import CUDARuntimeError, Device, Event, ExternalStream, Stream

__version__ = "14.0.0"
uint8, uint16, uint32, uint64, int32 = np.uint8, np.uint16, np.uint32, np.uint64, np.int32
float16, float32 = np.float16, np.float32

allocations: list[tuple[int, ...]] = []
"""Shapes of the device arrays made so far; uploads included, views not."""
launches: list[tuple[str, int]] = []
"""Kernels launched so far and the `ptr` of the stream each was put on."""
modules: list[tuple[int, tuple[str, ...]]] = []
"""Modules compiled so far: the device that was current, and the options."""
copies: list[str] = []
"""Copies between host and device so far: "to device" or "to host"."""


class MemoryPointer:
    """`ndarray.data`: the address, and memset."""

    def __init__(self, owner: ndarray) -> None:
        self._owner = owner
        self.ptr: int = owner.host.ctypes.data

    def memset_async(self, value: int, size: int, stream: Any = None) -> None:
        streams.chosen(stream).put(lambda: ctypes.memset(self.ptr, value, size))

    def memset(self, value: int, size: int) -> None:
        ctypes.memset(self.ptr, value, size)

    def copy_from_host_async(self, mem: Any, size: int, stream: Any = None) -> None:
        copies.append("to device")
        streams.chosen(stream).put(lambda: ctypes.memmove(self.ptr, getattr(mem, "value", mem), size))

    def copy_to_host_async(self, mem: Any, size: int, stream: Any = None) -> None:
        copies.append("to host")
        streams.chosen(stream).put(lambda: ctypes.memmove(getattr(mem, "value", mem), self.ptr, size))

    def copy_from_device_async(self, src: Any, size: int, stream: Any = None) -> None:
        streams.chosen(stream).put(lambda: ctypes.memmove(self.ptr, src.ptr, size))


class ndarray:  # noqa: N801 - CuPy's name
    """An array on the pretended device; `host` holds its values."""

    def __init__(
        self, shape: Any, dtype: Any = float, memptr: Any = None, *, host: np.ndarray[Any, Any] | None = None
    ) -> None:
        if host is None:
            host = np.empty(shape, dtype)
            host.view(np.uint8).fill(0xFF) if host.ndim else None  # what was never written shows as NaN
            allocations.append(host.shape)
        self.host = host
        self.device = cuda.Device(streams.current_device())

    shape = property(lambda self: self.host.shape)
    dtype = property(lambda self: self.host.dtype)
    ndim = property(lambda self: self.host.ndim)
    size = property(lambda self: self.host.size)
    nbytes = property(lambda self: self.host.nbytes)
    itemsize = property(lambda self: self.host.itemsize)
    strides = property(lambda self: self.host.strides)
    flags = property(lambda self: self.host.flags)
    data = property(MemoryPointer)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.host.ctypes.data, False),
            "strides": None if self.flags.c_contiguous else self.strides,
            "version": 3,
            "stream": streams.current_stream().ptr or 1,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.device.id

    def __dlpack__(self, *, stream: int | None = None, **_: Any) -> Any:
        """CuPy's rule: the consumer waits for the stream that is current now, which need not be the producer's."""
        current, consumer = streams.current_stream(), ExternalStream(1 if stream is None else stream)
        if stream != -1 and consumer.ptr != current.ptr:
            consumer.wait_event(current.record())
        return self.host

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __len__(self) -> int:
        return len(self.host)

    def __getitem__(self, key: Any) -> ndarray:
        view = ndarray((), host=np.asarray(self.host[key]))
        view.device = self.device
        return view

    def __setitem__(self, key: Any, value: Any) -> None:
        given = value.host if isinstance(value, ndarray) else value
        streams.current_stream().put(partial(self.host.__setitem__, key, given))

    def __int__(self) -> int:
        return int(self.host)

    def __float__(self) -> float:
        return float(self.host)

    def __bool__(self) -> bool:
        return bool(self.host)

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> Any:
        copies.append("to host")
        found = np.empty_like(self.host) if out is None else out
        _same(found, self.host)
        streams.chosen(stream).put(partial(np.copyto, found, self.host))
        if blocking:
            streams.chosen(stream).run()
        return found

    def set(self, arr: np.ndarray[Any, Any], stream: Any = None) -> None:
        copies.append("to device")
        _same(arr, self.host)
        streams.chosen(stream).put(partial(np.copyto, self.host, arr))

    def fill(self, value: Any) -> None:
        self.host.fill(value)

    def item(self) -> Any:
        return self.host.item()

    def max(self) -> ndarray:
        return _made(np.asarray(self.host.max()))

    def reshape(self, *shape: Any) -> ndarray:
        return ndarray((), host=self.host.reshape(*shape))

    def ravel(self) -> ndarray:
        return ndarray((), host=self.host.ravel())

    def view(self, dtype: Any) -> ndarray:
        return ndarray((), host=self.host.view(dtype))

    def transpose(self, *axes: Any) -> ndarray:
        return ndarray((), host=self.host.transpose(*axes))

    def astype(self, dtype: Any, copy: bool = True) -> ndarray:
        return self if not copy and self.dtype == dtype else _made(self.host.astype(dtype))

    def copy(self) -> ndarray:
        return _made(self.host.copy())


class RawModule:
    """CuPy's call shape; the source is compiled by g++ with the definitions among the options."""

    backwards = False
    """Set by a test to run the threads of every block last to first."""

    def __init__(self, *, code: str, options: Sequence[str] = (), backend: str = "nvrtc", **_: Any) -> None:
        modules.append((streams.current_device(), tuple(options)))
        self._module = CpuModule(code, options)

    def compile(self, log_stream: Any = None) -> None:
        """Done already."""

    def get_function(self, name: str) -> Kernel:
        return Kernel(self._module, name)


class Kernel:
    """One kernel of a module."""

    def __init__(self, module: CpuModule, name: str) -> None:
        self._module = module
        self.name = name
        self.max_dynamic_shared_size_bytes = 48 << 10
        self.num_regs, self.local_size_bytes, self.shared_size_bytes = 0, 0, 0

    def __call__(
        self, grid: Sequence[int], block: Sequence[int], args: Sequence[Any], *, shared_mem: int = 0, stream: Any = None
    ) -> None:
        if shared_mem:
            raise NotImplementedError("the CPU runs kernels with __shared__ arrays of fixed size only")
        launches.append((self.name, streams.chosen(stream).ptr))
        self._module.backwards = RawModule.backwards
        values = [ctypes.c_void_p(a.host.ctypes.data) if isinstance(a, ndarray) else scalar(a) for a in args]
        streams.chosen(stream).put(
            lambda: args and self._module.call(self.name, grid, block, values)
        )  # `args` keeps the arrays


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return ndarray(shape, dtype)


def zeros(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return _made(np.zeros(shape, dtype))


def full(shape: Any, fill_value: Any, dtype: Any = None) -> ndarray:
    return _made(np.full(shape, fill_value, dtype))


def empty_like(prototype: ndarray, dtype: Any = None) -> ndarray:
    return ndarray(prototype.shape, dtype or prototype.dtype)


def asarray(
    a: Any, dtype: Any = None, order: Any = None, *, copy: bool | None = None, blocking: bool = False
) -> ndarray:
    """A device array as it is; a view of `__cuda_array_interface__`; a copy of anything on the host."""
    if not isinstance(a, ndarray) and hasattr(a, "__cuda_array_interface__"):
        if a.__cuda_array_interface__.get("stream") is not None:
            ExternalStream(a.__cuda_array_interface__["stream"]).synchronize()
        a = ndarray((), host=_viewed(a))
    if isinstance(a, ndarray):
        return a if dtype is None else a.astype(dtype, copy=False)
    copies.append("to device")
    made = _made(np.array(a, dtype))
    if blocking:
        streams.current_stream().run()
    return made


array = asarray


def ascontiguousarray(a: Any, dtype: Any = None) -> ndarray:
    found = asarray(a, dtype)
    return found if found.flags.c_contiguous else _made(np.ascontiguousarray(found.host))


def asnumpy(a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True) -> Any:
    return a.get(out=out) if isinstance(a, ndarray) else np.asarray(a)


def from_dlpack(array: Any, *, device: Any = None, copy: Any = None) -> ndarray:
    """A view of an object that says it lies on a CUDA device; its `__dlpack__` gets the current stream."""
    kind, _ = array.__dlpack_device__()
    if kind not in (2, 13):
        raise TypeError("CPU arrays cannot be directly imported to CuPy.")
    return ndarray((), host=array.__dlpack__(stream=cuda.get_current_stream().ptr or 1))


class CUDADriverError(RuntimeError):
    """What CuPy raises for an error of the driver."""


class OutOfMemoryError(MemoryError):
    """What CuPy raises where the device's memory is full."""


class _PinnedMemory:
    """Page-locked memory; supports the buffer protocol through `np.frombuffer(memory, ...)`, as CuPy's."""

    def __new__(cls, size: int) -> Any:
        return memoryview(bytearray(size))


class _Pool:
    def free_all_blocks(self, stream: Any = None) -> None: ...

    def used_bytes(self) -> int:
        return 0

    def total_bytes(self) -> int:
        return 0


def _made(values: np.ndarray[Any, Any]) -> ndarray:
    """An array that is filled in the order of the current stream."""
    if not streams.late:
        allocations.append(values.shape)
        return ndarray((), host=values)
    array = ndarray(values.shape, values.dtype)
    streams.current_stream().put(partial(np.copyto, array.host, values))
    return array


def _same(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> None:
    if one.shape != other.shape or one.dtype != other.dtype:
        raise ValueError(f"arrays differ: {one.dtype} {one.shape} and {other.dtype} {other.shape}")


def _viewed(a: Any) -> np.ndarray[Any, Any]:
    fields = {**a.__cuda_array_interface__}
    fields.pop("stream", None)
    keeper = types.SimpleNamespace(__array_interface__={**fields, "version": 3}, owner=a)
    return np.asarray(keeper)


runtime = types.SimpleNamespace(
    getDevice=streams.current_device,
    setDevice=streams.set_device,
    getDeviceCount=lambda: 1,
    getDeviceProperties=lambda device: {
        "name": b"no GPU: kernels on the CPU", "major": 8, "minor": 6, "totalGlobalMem": 8 << 30,
    },
    driverGetVersion=lambda: 13000,
    runtimeGetVersion=lambda: 13000,
    deviceSynchronize=lambda: [stream.run() for stream in Stream._known.values()] and None,
    streamSynchronize=lambda ptr: ExternalStream(ptr).run(),
    CUDARuntimeError=CUDARuntimeError,
)  # fmt: skip

cuda = types.SimpleNamespace(
    Stream=Stream,
    ExternalStream=ExternalStream,
    Event=Event,
    Device=Device,
    MemoryPointer=MemoryPointer,
    PinnedMemory=_PinnedMemory,
    alloc_pinned_memory=_PinnedMemory,
    get_current_stream=streams.current_stream,
    get_elapsed_time=streams.elapsed_ms,
    is_available=lambda: True,
    runtime=runtime,
    driver=types.SimpleNamespace(CUDADriverError=CUDADriverError),
    memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
    nvtx=types.SimpleNamespace(RangePush=lambda *_: None, RangePop=lambda: None),
)


def get_default_memory_pool() -> Any:
    return _Pool()


def get_default_pinned_memory_pool() -> Any:
    return _Pool()


def forget() -> None:
    """Start counting again, on device 0 and the null stream, with nothing under way."""
    streams.forget()
    for counted in (allocations, launches, modules, copies):
        counted.clear()
    RawModule.backwards = False
