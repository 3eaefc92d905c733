"""The frame contract: what a frame may be, and the one place where grey and 16-bit frames become 8-bit RGB."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.errors import FrameError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Per-channel mean and standard deviation of RGB in [0, 1], as the pretrained encoders expect them."""

SIDE_MULTIPLE_PX = 32
"""The encoder halves a frame five times, so both sides must be multiples of 2 ** 5."""


def rgb_frame(
    frame: NDArray[Any],
    size_px: tuple[int, int],
    *,
    bit_depth: int | None = None,
    full_scale: float | None = None,
) -> NDArray[np.uint8]:
    """Check one frame against the contract and bring it to 8-bit RGB. Nothing is resized or stretched.

    Args:
        frame: (H, W), or (H, W, 3) with the channels R, G, B; uint8, or uint16 with `bit_depth`, or floating point with
            `full_scale`. One channel, (H, W) or (H, W, 1), is repeated to three.
        size_px: (H, W) that the frame must have.
        bit_depth: for uint16, how many bits the scanner uses (9 to 16); values are divided by 2 ** bit_depth - 1.
        full_scale: for floating point, the value that stands for white, e.g. 1.0; black is 0.

    Returns:
        (H, W, 3) uint8, C-contiguous. A uint8 colour frame is not copied if it is contiguous.

    Raises:
        FrameError: another dtype, size or channel count; NaN; values beyond the declared range; a bit depth or full
            scale that does not belong to the dtype, or is no number; a masked array, whose mask would be lost.
    """
    array = _plain(frame)
    if not is_frame(array.shape, size_px):
        raise FrameError(f"a frame is {_frame_in_words(size_px)}, got {array.shape}; {_remedy(array.shape, size_px)}")
    return _eight_bit(array.reshape(*size_px, -1), bit_depth, full_scale)


def rgb_batch(
    frames: NDArray[Any] | Sequence[NDArray[Any]],
    size_px: tuple[int, int],
    *,
    bit_depth: int | None = None,
    full_scale: float | None = None,
) -> NDArray[np.uint8]:
    """Check a batch against the contract and bring it to 8-bit RGB; each frame as `rgb_frame`.

    Args:
        frames: (N, H, W) or (N, H, W, 3), or a list or tuple of N frames.
        size_px: (H, W) that every frame must have.
        bit_depth: see `rgb_frame`.
        full_scale: see `rgb_frame`.

    Returns:
        (N, H, W, 3) uint8, C-contiguous.

    Raises:
        FrameError: as `rgb_frame`; no frame at all.
    """
    if isinstance(frames, (list, tuple)):
        if not frames:
            raise FrameError("a batch must hold at least one frame, got an empty list; check where it was read")
        return np.stack([rgb_frame(frame, size_px, bit_depth=bit_depth, full_scale=full_scale) for frame in frames])
    array = _plain(frames)
    if array.ndim < 3 or array.shape[0] == 0 or not is_frame(array.shape[1:], size_px):
        raise FrameError(
            f"the first axis of a batch is N, and each of its frames is {_frame_in_words(size_px)}, got {array.shape}; "
            + _remedy(array.shape[1:] if array.ndim > 2 else array.shape, size_px)
        )
    return _eight_bit(array.reshape(len(array), *size_px, -1), bit_depth, full_scale)


def is_frame(shape: tuple[int, ...], size_px: tuple[int, int]) -> bool:
    """Whether an array of this shape is one frame: (H, W), or (H, W, 1 or 3)."""
    return shape == size_px or (len(shape) == 3 and shape[:2] == size_px and shape[2] in (1, 3))


def check_model_size(size_px: tuple[int, int]) -> None:
    """Refuse a model size that the network's five halvings cannot carry.

    Raises:
        FrameError: a side that is not a positive multiple of 32.
    """
    if any(side <= 0 or side % SIDE_MULTIPLE_PX for side in size_px):
        raise FrameError(
            f"the model size must be a multiple of {SIDE_MULTIPLE_PX} on both sides, got {size_px[0]} x {size_px[1]}; "
            f"the nearest is {_nearest(size_px[0])} x {_nearest(size_px[1])}"
        )


def _whole_number(bit_depth: Any) -> int | None:
    """A bit depth as Python's own int: 2 ** 12 in NumPy's uint8 would be 0."""
    if bit_depth is None or (isinstance(bit_depth, Integral) and not isinstance(bit_depth, bool)):
        return None if bit_depth is None else int(bit_depth)
    raise FrameError(f"bit_depth must be a whole number such as 12, got {bit_depth!r}; convert it with int()")


def _number(full_scale: Any) -> float | None:
    if full_scale is None or (isinstance(full_scale, Real) and not isinstance(full_scale, bool)):
        return None if full_scale is None else float(full_scale)
    raise FrameError(f"full_scale must be a number such as 1.0, got {full_scale!r}; convert it with float()")


def _nearest(side: int) -> int:
    return max(SIDE_MULTIPLE_PX, round(side / SIDE_MULTIPLE_PX) * SIDE_MULTIPLE_PX)


def _plain(frames: Any) -> NDArray[Any]:
    if not isinstance(frames, np.ndarray) or isinstance(frames, np.ma.MaskedArray):
        raise FrameError(f"frames must be plain NumPy arrays, got {type(frames).__name__}; use numpy.asarray first")
    return np.asarray(frames)


def _eight_bit(array: NDArray[Any], bit_depth: int | None, full_scale: float | None) -> NDArray[np.uint8]:
    """(..., 1 or 3) of any allowed dtype to (..., 3) uint8."""
    bit_depth, full_scale = _whole_number(bit_depth), _number(full_scale)
    native = array.dtype.newbyteorder("=")  # TIFF readers hand out big-endian arrays; the values are the same
    if native == np.uint8:
        eight_bit = _from_uint8(array, bit_depth, full_scale)
    elif native == np.uint16:
        eight_bit = _from_uint16(array, bit_depth, full_scale)
    elif np.issubdtype(native, np.floating):
        eight_bit = _from_float(array, bit_depth, full_scale)
    else:
        raise FrameError(
            f"frames must be uint8, uint16 with bit_depth, or floating point with full_scale, got {array.dtype}; "
            "convert them without scaling"
        )
    if eight_bit.shape[-1] == 1:
        eight_bit = np.repeat(eight_bit, 3, axis=-1)
    return np.ascontiguousarray(eight_bit)


def _frame_in_words(size_px: tuple[int, int]) -> str:
    return f"(H, W) or (H, W, 3) of {size_px[0]} x {size_px[1]} px"


def _remedy(shape: tuple[int, ...], size_px: tuple[int, int]) -> str:
    """What to do about one frame's shape."""
    if 0 in shape:
        return "there is no frame in it: check where it was read"
    if len(shape) == 3 and shape[1:] == size_px and shape[0] in (1, 3):
        return "move the channels last, or pass several frames to `batch`"
    if len(shape) > 2 and is_frame(shape[1:], size_px):
        return "pass several frames to `batch`"
    if shape[:2] == size_px:
        return "keep one channel, or R, G and B without alpha"
    return "frames are never resized here: crop them, or export the model for this size (breastseg-export --size)"


def _from_uint8(batch: NDArray[np.uint8], bit_depth: int | None, full_scale: float | None) -> NDArray[np.uint8]:
    if bit_depth not in (None, 8) or full_scale is not None:
        raise FrameError(
            f"uint8 frames have 8 bits and white at 255, got bit_depth {bit_depth} and full_scale {full_scale}; "
            "omit both"
        )
    return batch


def _from_uint16(batch: NDArray[np.uint16], bit_depth: int | None, full_scale: float | None) -> NDArray[np.uint8]:
    if bit_depth is None or not 9 <= bit_depth <= 16:
        raise FrameError(
            f"uint16 frames need the scanner's bit_depth (9 to 16), got {bit_depth}; their range is never guessed: "
            "pass bit_depth=, or --bit-depth on the command line"
        )
    if full_scale is not None:
        raise FrameError(f"uint16 frames have a bit_depth, not a full_scale, got full_scale {full_scale}; omit it")
    white = 2**bit_depth - 1
    brightest = int(batch.max())
    if brightest > white:
        raise FrameError(f"frames declared {bit_depth}-bit hold the value {brightest}, over {white}; check bit_depth")
    return np.asarray((batch.astype(np.uint32) * 255 + white // 2) // white, np.uint8)


def _from_float(batch: NDArray[Any], bit_depth: int | None, full_scale: float | None) -> NDArray[np.uint8]:
    unusable = int(batch.size - np.count_nonzero(np.isfinite(batch)))
    if unusable:
        raise FrameError(
            f"floating-point frames must be finite, got {unusable} NaN or infinite values; mend them where they arise"
        )
    if full_scale is None or not 0 < full_scale < math.inf:
        raise FrameError(
            f"floating-point frames need full_scale, the value of white (such as 1.0), got {full_scale}; "
            "their range is never guessed"
        )
    if bit_depth is not None:
        raise FrameError(
            f"floating-point frames have a full_scale and no bit_depth, got bit_depth {bit_depth}; omit it"
        )
    low, high = float(batch.min()), float(batch.max())
    if low < 0 or high > full_scale:
        raise FrameError(f"floating-point frames must lie in [0, {full_scale}], got {low} to {high}; check full_scale")
    return np.rint(batch.astype(np.float64) / full_scale * 255).astype(np.uint8)  # float16 would round twice
