"""What a frame may be, value by value, and what is refused with which words."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from breastseg_deploy.contract import check_model_size, rgb_batch, rgb_frame
from breastseg_deploy.errors import FrameError

SIZE = (32, 64)


def random_frame(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def with_value(value: float, dtype: Any) -> NDArray[Any]:
    frame = np.zeros(SIZE, dtype)
    frame[3, 5] = value
    return frame


def first_values(values: list[float], dtype: Any, **declared: Any) -> list[int]:
    """What 8-bit values a frame that starts with `values` gets."""
    frame = np.zeros(SIZE, dtype)
    frame[0, : len(values)] = values
    return rgb_frame(frame, SIZE, **declared)[0, : len(values), 0].tolist()


def test_colour_frame_stays_as_it_is() -> None:
    frame = random_frame(*SIZE, 3)
    np.testing.assert_array_equal(rgb_frame(frame, SIZE), frame)


def test_contiguous_colour_frames_are_not_copied() -> None:
    frame = random_frame(*SIZE, 3)
    assert np.shares_memory(rgb_frame(frame, SIZE), frame)
    assert np.shares_memory(rgb_batch(frame[np.newaxis], SIZE), frame)


@pytest.mark.parametrize("shape", [SIZE, (*SIZE, 1)])
def test_grey_frame_is_repeated_to_three_channels(shape: tuple[int, ...]) -> None:
    frame = random_frame(*shape)
    rgb = rgb_frame(frame, SIZE)
    assert rgb.shape == (*SIZE, 3)
    for channel in range(3):
        np.testing.assert_array_equal(rgb[:, :, channel], frame.reshape(SIZE))


def test_grey_batch_keeps_its_order() -> None:
    frames = random_frame(4, *SIZE)
    np.testing.assert_array_equal(rgb_batch(frames, SIZE)[:, :, :, 1], frames)


def test_colour_batch_keeps_order_and_channels() -> None:
    frames = random_frame(2, *SIZE, 3)
    np.testing.assert_array_equal(rgb_batch(frames, SIZE), frames)


def test_grey_batch_with_a_channel_axis_is_repeated() -> None:
    frames = random_frame(2, *SIZE, 1)
    np.testing.assert_array_equal(rgb_batch(frames, SIZE)[..., 2], frames[..., 0])


def test_a_list_of_frames_is_a_batch_grey_and_colour_mixed() -> None:
    grey, colour = random_frame(*SIZE), random_frame(*SIZE, 3)
    batch = rgb_batch([grey, colour], SIZE)
    np.testing.assert_array_equal(batch[0], np.dstack([grey] * 3))
    np.testing.assert_array_equal(batch[1], colour)
    with pytest.raises(FrameError, match="at least one frame, got an empty list"):
        rgb_batch([], SIZE)


@pytest.mark.parametrize("count", [1, 3, 64])
def test_the_first_axis_of_a_batch_is_n_whatever_its_length(count: int) -> None:
    assert rgb_batch(random_frame(count, *SIZE), SIZE).shape == (count, *SIZE, 3)


@pytest.mark.parametrize("shape", [(3, *SIZE), (1, *SIZE), (3, 32, 32)])
def test_a_frame_with_its_channels_first_is_refused_in_words(shape: tuple[int, ...]) -> None:
    words = r"a frame is \(H, W\) or \(H, W, 3\) of .* px, got .*; move the channels last, or pass several frames to"
    with pytest.raises(FrameError, match=words):
        rgb_frame(np.zeros(shape, np.uint8), shape[1:])  # type: ignore[arg-type]


def test_a_batch_is_no_frame_and_a_frame_no_batch() -> None:
    with pytest.raises(FrameError, match="pass several frames to `batch`"):
        rgb_frame(random_frame(5, *SIZE, 3), SIZE)
    for frame in (random_frame(*SIZE), random_frame(*SIZE, 3)):
        with pytest.raises(FrameError, match="the first axis of a batch is N"):
            rgb_batch(frame, SIZE)


@pytest.mark.parametrize("depth", range(9, 17))
def test_black_and_white_of_every_bit_depth_become_0_and_255(depth: int) -> None:
    assert first_values([0, 2**depth - 1], np.uint16, bit_depth=depth) == [0, 255]


@pytest.mark.parametrize("depth", range(9, 17))
def test_every_value_of_every_bit_depth_is_rounded_to_the_nearest(depth: int) -> None:
    white = 2**depth - 1
    frame = (np.arange(2**16).reshape(256, 256) % (white + 1)).astype(np.uint16)
    found = rgb_frame(frame, (256, 256), bit_depth=depth)[:, :, 0]
    np.testing.assert_array_equal(found, np.rint(frame / white * 255))


def test_middle_values_are_exact() -> None:
    assert first_values([2047, 2048, 4094], np.uint16, bit_depth=12) == [127, 128, 255]
    assert first_values([32767, 32768, 257, 128], np.uint16, bit_depth=16) == [127, 128, 1, 0]


@pytest.mark.parametrize("depth", range(9, 16))
def test_values_beyond_the_declared_depth_are_refused(depth: int) -> None:
    with pytest.raises(FrameError, match=f"declared {depth}-bit hold the value {2**depth}, over {2**depth - 1}"):
        rgb_frame(with_value(2**depth, np.uint16), SIZE, bit_depth=depth)


@pytest.mark.parametrize("depth", [None, 0, -1, 8, 17])
def test_uint16_without_a_usable_depth_is_refused(depth: int | None) -> None:
    with pytest.raises(
        FrameError, match=rf"bit_depth \(9 to 16\), got {depth}; their range is never guessed.*--bit-depth"
    ):
        rgb_frame(np.zeros(SIZE, np.uint16), SIZE, bit_depth=depth)


def test_big_endian_uint16_gives_the_same_values() -> None:
    frame = np.random.default_rng(1).integers(0, 4096, SIZE, np.uint16)
    swapped = frame.astype(">u2")
    np.testing.assert_array_equal(rgb_frame(swapped, SIZE, bit_depth=12), rgb_frame(frame, SIZE, bit_depth=12))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4", np.longdouble])
def test_floats_are_scaled_by_their_declared_white(dtype: Any) -> None:
    assert first_values([0, 0.25, 0.75, 1], dtype, full_scale=1.0) == [0, 64, 191, 255]


def test_half_precision_floats_are_rounded_once() -> None:
    every_half = np.arange(0x3C01, dtype=np.uint16).view(np.float16)  # 0 to 1
    frame = np.resize(every_half, (128, 128))
    expected = np.rint(frame.astype(np.float64) * 255)
    np.testing.assert_array_equal(rgb_frame(frame, (128, 128), full_scale=1.0)[:, :, 0], expected)


def test_float_white_of_any_size_is_255() -> None:
    assert first_values([0, 4095], np.float32, full_scale=4095) == [0, 255]
    assert first_values([0, 1e-5], np.float64, full_scale=1e-5) == [0, 255]
    assert first_values([0, 2.0**-14], np.float16, full_scale=2.0**-14) == [0, 255]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_floats_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(FrameError, match="must be finite, got 1 NaN or infinite"):
        rgb_frame(with_value(value, np.float32), SIZE, full_scale=1.0)


@pytest.mark.parametrize("bit_depth", ["12", 12.0, True, (12,), np.array(12)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_bit_depth_that_is_no_whole_number_is_refused(dtype: Any, bit_depth: Any) -> None:
    with pytest.raises(FrameError, match=r"^bit_depth must be a whole number such as 12, got .*; convert it with"):
        rgb_frame(np.zeros(SIZE, dtype), SIZE, bit_depth=bit_depth)


@pytest.mark.parametrize("full_scale", ["1", True, 1j, [1.0]])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_full_scale_that_is_no_number_is_refused(dtype: Any, full_scale: Any) -> None:
    with pytest.raises(FrameError, match=r"^full_scale must be a number such as 1.0, got .*; convert it with"):
        rgb_frame(np.zeros(SIZE, dtype), SIZE, full_scale=full_scale)


@pytest.mark.parametrize("kind", [np.uint8, np.int64])
def test_numpys_numbers_are_numbers(kind: Any) -> None:
    assert first_values([0, 4095], np.uint16, bit_depth=kind(12)) == [0, 255]
    assert first_values([0, 2], np.float32, full_scale=kind(2)) == [0, 255]
    assert first_values([0, 0.5], np.float32, full_scale=np.float16(0.5)) == [0, 255]


@pytest.mark.parametrize("full_scale", [None, 0.0, -1.0, math.nan, math.inf])
def test_floats_without_a_usable_white_are_refused(full_scale: float | None) -> None:
    with pytest.raises(FrameError, match=rf"need full_scale, .* got {full_scale}; their range is never guessed"):
        rgb_frame(np.zeros(SIZE, np.float32), SIZE, full_scale=full_scale)


@pytest.mark.parametrize(("value", "range_seen"), [(-0.5, "-0.5 to 0.0"), (1.5, "0.0 to 1.5")])
def test_floats_outside_black_to_white_are_refused(value: float, range_seen: str) -> None:
    with pytest.raises(FrameError, match=rf"lie in \[0, 1.0\], got {range_seen}; check full_scale"):
        rgb_frame(with_value(value, np.float32), SIZE, full_scale=1.0)


@pytest.mark.parametrize(
    ("dtype", "declared"),
    [
        (np.uint8, {"bit_depth": 12}),
        (np.uint8, {"full_scale": 1.0}),
        (np.uint16, {"bit_depth": 12, "full_scale": 1.0}),
        (np.float32, {"bit_depth": 12, "full_scale": 1.0}),
    ],
)
def test_a_declaration_that_does_not_belong_to_the_dtype_is_refused(dtype: Any, declared: dict[str, Any]) -> None:
    with pytest.raises(FrameError, match=r"got .*(bit_depth|full_scale).*; omit (it|both)"):
        rgb_frame(np.zeros(SIZE, dtype), SIZE, **declared)


def test_uint8_may_be_declared_8_bit() -> None:
    frame = random_frame(*SIZE, 3)
    np.testing.assert_array_equal(rgb_frame(frame, SIZE, bit_depth=8), frame)


@pytest.mark.parametrize(
    "dtype", [np.int8, np.int16, np.int32, np.uint32, np.int64, np.bool_, np.complex64, object, "S1"]
)
def test_other_dtypes_are_refused_by_name(dtype: Any) -> None:
    frame = np.zeros(SIZE, dtype)
    with pytest.raises(FrameError, match="must be uint8, uint16 with bit_depth, or floating point") as refusal:
        rgb_frame(frame, SIZE, bit_depth=12)
    assert f"got {frame.dtype}" in str(refusal.value)


@pytest.mark.parametrize("shape", [(32, 32), (64, 32), (64, 32, 3), (2, 64, 32, 3), (33, 64), (31, 63, 3), (5,), ()])
def test_other_sizes_are_refused_and_never_resized(shape: tuple[int, ...]) -> None:
    with pytest.raises(FrameError, match=r"a frame is \(H, W\) or \(H, W, 3\) of 32 x 64 px.*never resized") as refusal:
        rgb_frame(np.zeros(shape, np.uint8), SIZE)
    assert f"got {shape};" in str(refusal.value)


@pytest.mark.parametrize("shape", [(*SIZE, 2), (*SIZE, 4)])
def test_other_channel_counts_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(FrameError, match="keep one channel, or R, G and B without alpha"):
        rgb_frame(np.zeros(shape, np.uint8), SIZE)


@pytest.mark.parametrize("shape", [(0, *SIZE), (*SIZE, 0), (0, 0), (0,)])
def test_arrays_without_a_frame_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(FrameError, match="there is no frame in it"):
        rgb_frame(np.zeros(shape, np.uint8), SIZE)


@pytest.mark.parametrize(
    "thing", [None, [[0, 1]], "frame.png", 3, memoryview(b"0" * 2048)], ids=lambda x: type(x).__name__
)
def test_what_is_no_array_is_refused(thing: Any) -> None:
    with pytest.raises(FrameError, match=f"must be plain NumPy arrays, got {type(thing).__name__}; use numpy.asarray"):
        rgb_frame(thing, SIZE)


def test_masked_arrays_are_refused_because_their_mask_would_be_lost() -> None:
    masked = np.ma.masked_array(np.zeros(SIZE, np.uint8), mask=True)
    with pytest.raises(FrameError, match="plain NumPy arrays, got MaskedArray"):
        rgb_frame(masked, SIZE)


def test_memory_mapped_frames_are_taken(tmp_path: Any) -> None:
    frame = random_frame(*SIZE)
    np.save(tmp_path / "frame.npy", frame)
    mapped = np.load(tmp_path / "frame.npy", mmap_mode="r")
    np.testing.assert_array_equal(rgb_frame(mapped, SIZE)[:, :, 0], frame)


def test_views_with_strides_become_contiguous() -> None:
    whole = random_frame(64, 128, 3)
    for view in (whole[::2, ::-2], whole[16:48, 30:94], whole[:32, :64, ::-1]):
        rgb = rgb_frame(view, SIZE)
        assert rgb.flags.c_contiguous
        np.testing.assert_array_equal(rgb, view)


def test_read_only_frames_are_taken_and_left_alone() -> None:
    frame = random_frame(*SIZE)
    frame.flags.writeable = False
    np.testing.assert_array_equal(rgb_frame(frame, SIZE)[:, :, 0], frame)


@pytest.mark.parametrize("size", [(32, 32), (512, 512), (96, 1024)])
def test_model_sizes_that_are_multiples_of_32_pass(size: tuple[int, int]) -> None:
    check_model_size(size)


@pytest.mark.parametrize(
    ("size", "nearest"),
    [
        ((500, 512), "512 x 512"),
        ((512, 513), "512 x 512"),
        ((0, 32), "32 x 32"),
        ((-32, 64), "32 x 64"),
        ((8, 40), "32 x 32"),
    ],
)
def test_other_model_sizes_are_refused_with_the_nearest(size: tuple[int, int], nearest: str) -> None:
    with pytest.raises(
        FrameError, match=f"multiple of 32 on both sides, got {size[0]} x {size[1]}; the nearest is {nearest}"
    ):
        check_model_size(size)
