"""Arrays as the kernels take them: whose memory they lie in, and what is refused before anything is launched."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.contract import is_frame, rgb_batch, rgb_frame
from breastseg_deploy.errors import ArgumentError, FrameError

_ON_CUDA, _ON_HOST = (2, 13), (1, 3)
"""DLPack device types: device and managed memory; ordinary and page-locked memory."""


def taken(cupy: Any, found: Any) -> Any:
    """The array without copying it: a CuPy array, or a NumPy array where it lies on the host.

    Raises:
        FrameError: an object that tells nobody where its memory is.
    """
    if isinstance(found, (cupy.ndarray, np.ndarray)):
        return found
    kind = int(found.__dlpack_device__()[0]) if hasattr(found, "__dlpack_device__") else None
    if kind in _ON_CUDA:  # before the other protocol, by which torch does not say what stream is at work on a tensor
        return cupy.from_dlpack(found)
    if hasattr(found, "__cuda_array_interface__"):
        return cupy.asarray(found)
    if kind in _ON_HOST:
        return np.from_dlpack(found)
    raise FrameError(
        "expected a NumPy or CuPy array, or an object with __cuda_array_interface__ or DLPack on a CUDA device, "
        f"got {type(found).__name__}; numpy.asarray makes an array of most things"
    )


@lru_cache(maxsize=64)
def frame_count(shape: tuple[int, ...], dtype: np.dtype[Any], size_px: tuple[int, int], bit_depth: int | None) -> int:
    """How many frames these are. The contract itself judges shape and dtype, by zeros, once for each kind.

    Raises:
        FrameError: frames that break the contract, or floating point.
    """
    if np.issubdtype(dtype, np.floating):
        raise FrameError(
            f"frames for the GPU must be uint8, or uint16 with bit_depth, got {dtype}; round them to one of these "
            "where they arise, or use the CPU, which takes full_scale"
        )
    zeros: NDArray[Any] = np.broadcast_to(np.zeros((), dtype), shape)
    if is_frame(shape, size_px):
        rgb_frame(zeros, size_px, bit_depth=bit_depth)
        return 1
    return len(rgb_batch(zeros, size_px, bit_depth=bit_depth))


def on_device(cupy: Any, frames: Any) -> Any:
    """Frames as the kernel reads them: those of the host uploaded to the current device, the device's own as they are.

    Raises:
        FrameError: a masked array; frames on the device whose pixels do not follow one another.
    """
    if isinstance(frames, np.ma.MaskedArray):
        raise FrameError("frames must be a plain NumPy array, got MaskedArray; use numpy.asarray first")
    if isinstance(frames, np.ndarray):
        native = np.ascontiguousarray(frames, frames.dtype.newbyteorder("="))
        return cupy.asarray(native, blocking=True)  # page-locked memory would still be read after the call
    if not frames.flags.c_contiguous:
        raise FrameError(
            f"frames on the device must be C-contiguous, got shape {frames.shape} with strides {frames.strides}; "
            "copy them into one block (cupy.ascontiguousarray)"
        )
    return frames


def device_of(cupy: Any, frames: Any, out: Any | None) -> Any:
    """The device that holds the frames, or the result where the frames are on the host."""
    for array in (frames, out):
        if isinstance(array, cupy.ndarray):
            return array.device
    return cupy.cuda.Device()


def check_buffer(cupy: Any, name: str, array: Any, shape: tuple[Any, ...], dtypes: tuple[str, ...]) -> None:
    """Refuse what a kernel could not read or write as one block of memory on the current device.

    Raises:
        ArgumentError: no CuPy array, another shape, dtype or device, or pieces of a larger array.
    """
    wanted = f"{name} must be a C-contiguous CuPy array of {' or '.join(dtypes)}, shape {shape}"
    if not isinstance(array, cupy.ndarray):
        raise ArgumentError(f"{wanted}, got {type(array).__name__}; make it with cupy.empty")
    if array.dtype.name not in dtypes or array.shape != shape:
        raise ArgumentError(f"{wanted}, got {array.dtype} {array.shape}; make it with cupy.empty")
    if not array.flags.c_contiguous:
        raise ArgumentError(f"{wanted}, got strides {array.strides}; use cupy.ascontiguousarray")
    here = int(cupy.cuda.runtime.getDevice())
    if array.device.id != here:
        raise ArgumentError(f"{wanted}, on device {here} with the input, got device {array.device.id}; move it there")
