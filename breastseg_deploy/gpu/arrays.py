"""Arrays as the kernels take them: whose memory they lie in, and what is refused before anything is launched."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.contract import is_frame, rgb_batch, rgb_frame
from breastseg_deploy.errors import ArgumentError, FrameError

_ON_CUDA = (2, 13)
"""DLPack device types: device and managed memory."""


def device_view(cupy: Any, found: Any) -> Any:
    """An array on the device (see `inference.lies_on_gpu`) as a CuPy array over the same memory."""
    if isinstance(found, cupy.ndarray):
        return found
    # DLPack before the other protocol, by which torch does not say what stream is at work on a tensor.
    if hasattr(found, "__dlpack_device__") and int(found.__dlpack_device__()[0]) in _ON_CUDA:
        return cupy.from_dlpack(found)
    return cupy.asarray(found)


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


def check_frames(frames: Any) -> None:
    """Refuse frames on the device that the kernel would misread.

    Raises:
        FrameError: pixels that do not follow one another, or whose bytes stand in another order.
    """
    if not frames.dtype.isnative:
        raise FrameError(
            f"frames on the device must have this machine's byte order, got {frames.dtype.str}; convert them there"
        )
    if not frames.flags.c_contiguous:
        raise FrameError(
            f"frames on the device must be C-contiguous, got shape {frames.shape} with strides {frames.strides}; "
            "copy them into one block (cupy.ascontiguousarray)"
        )


def check_buffer(cupy: Any, name: str, array: Any, shape: tuple[int, ...], dtype: str) -> None:
    """Refuse what a kernel could not read or write as one block of memory on the current device.

    Raises:
        ArgumentError: no CuPy array, another shape, dtype or device, or pieces of a larger array.
    """
    wanted = f"{name} must be a C-contiguous CuPy array of {dtype}, shape {shape}"
    if not isinstance(array, cupy.ndarray):
        raise ArgumentError(f"{wanted}, got {type(array).__name__}; make it with cupy.empty")
    if array.dtype != dtype or array.shape != shape:
        raise ArgumentError(f"{wanted}, got {array.dtype} {array.shape}; make it with cupy.empty")
    if not array.flags.c_contiguous:
        raise ArgumentError(f"{wanted}, got strides {array.strides}; use cupy.ascontiguousarray")
    here = int(cupy.cuda.runtime.getDevice())
    if array.device.id != here:
        raise ArgumentError(f"{wanted}, on device {here} with the input, got device {array.device.id}; move it there")
