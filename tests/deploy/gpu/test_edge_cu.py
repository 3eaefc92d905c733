"""`edge.cu` and `mask.cu` without a GPU: compiled for every architecture, and run on the CPU against the reference."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from cuda_cpu.compiled import CpuModule, KernelError, scalar, why_not
from cuda_cpu.cubin import compiled_for
from numpy.typing import NDArray

from breastseg_deploy.contract import rgb_batch
from breastseg_deploy.errors import ArgumentError
from breastseg_deploy.gpu.bank import folded_bank
from breastseg_deploy.gpu.sources import MASK_OPTIONS, edge_options, edge_shape, source
from breastseg_deploy.preprocess.gabor import GaborParameters, edge_channel_reference, gabor_bank
from breastseg_deploy.preprocess.tensor import network_input

ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_120")
EDGE_REGISTERS = 240
"""Two blocks of 128 threads share 65,536 registers: 256 for a thread, of which 255 have names. 228 are used."""
MASK_REGISTERS = 32
"""Eight blocks of 256 threads fill a multiprocessor's 2,048 threads with 32 each."""

TOLERANCE = 1e-5
"""Promised in gpu.ops. A response of 1 is 256 float32 sums, each rounded by at most 6e-8, most of them far below 1."""

on_cpu = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")


def noise(*shape: int, seed: int = 0, below: int = 256, dtype: Any = np.uint8) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(0, below, shape, dtype)


def launched(
    frames: NDArray[Any],
    parameters: GaborParameters | None = None,
    *,
    white: int = 255,
    code: str | None = None,
    backwards: bool = False,
) -> tuple[NDArray[Any], int]:
    """The kernel's tensor for (N, H, W, C) frames, and what it left in `over_range`."""
    count, height, width, channels = frames.shape
    bank = folded_bank(parameters)
    guarded = np.full(count * 4 * height * width + 64, 7, np.float32)
    over_range = np.zeros(1, np.uint32)
    module = CpuModule(code or source("edge"), edge_options(frames.dtype, channels), backwards=backwards)
    arrays = [ctypes.c_void_p(array.ctypes.data) for array in (frames, bank, guarded)]
    numbers = [np.int32(height), np.int32(width), np.int32(len(bank)), np.uint32(white)]
    arguments = [*arrays, *map(scalar, numbers), ctypes.c_void_p(over_range.ctypes.data)]
    module.call("edge_tensor", *edge_shape(count, (height, width)), arguments)
    assert (guarded[-64:] == 7).all(), "written beyond the tensor"
    return guarded[:-64].reshape(count, 4, height, width), int(over_range[0])


def worst(found: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(
        np.abs(found.astype(np.float64) - expected).max()
    )  # NaN, where a pixel was never written, is no maximum


@pytest.fixture(scope="module")
def nvrtc() -> Any:
    """NVRTC as CuPy will use it."""
    pytest.importorskip("cupy", reason="no CuPy: pip install 'breastseg-deploy[gpu]'")
    from cupy.cuda import nvrtc

    try:
        nvrtc.getVersion()
    except (ImportError, OSError, RuntimeError) as err:
        pytest.skip(f"no NVRTC library: {err}")
    return nvrtc


FRAMES = [(np.uint8, 3), (np.uint8, 1), (np.uint16, 3), (np.uint16, 1)]
"""Every kind of frame that the contract allows on a GPU."""


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("dtype", "channels"), FRAMES)
def test_edge_kernel_compiles_within_its_registers_and_spills_none(
    nvrtc: Any, architecture: str, dtype: Any, channels: int
) -> None:
    used = compiled_for(nvrtc, source("edge"), architecture, edge_options(dtype, channels))
    assert used.registers <= EDGE_REGISTERS
    assert used.frame_bytes == 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_mask_kernel_compiles_within_its_registers_and_spills_none(nvrtc: Any, architecture: str) -> None:
    used = compiled_for(nvrtc, source("mask"), architecture, MASK_OPTIONS)
    assert used.registers <= MASK_REGISTERS
    assert used.frame_bytes == 0


def test_a_kernel_that_spills_would_be_noticed(nvrtc: Any) -> None:
    crowded = source("edge").replace("ROWS / PIXELS, 2)", "ROWS / PIXELS, 4)")
    assert crowded != source("edge")
    used = compiled_for(nvrtc, crowded, "sm_90", edge_options(np.uint8, 3))
    assert used.registers <= 128
    assert used.frame_bytes > 0


@on_cpu
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (49, 65)])
def test_kernel_matches_the_reference_at_odd_sizes_borders_included(size: tuple[int, int]) -> None:
    frames = noise(1, *size, 3)
    found, _ = launched(frames)
    assert worst(found, network_input(frames)) <= TOLERANCE
    assert worst(found[0, 3], edge_channel_reference(frames[0])) <= TOLERANCE


@on_cpu
def test_frames_of_a_batch_do_not_touch_one_another() -> None:
    frames = noise(3, 33, 40, 3)
    found, _ = launched(frames)
    assert worst(found, network_input(frames)) <= TOLERANCE
    np.testing.assert_array_equal(found[2:], launched(frames[2:])[0])


@on_cpu
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_colour_frames(channels: int) -> None:
    frames = noise(1, 40, 56, channels)
    found, _ = launched(frames)
    assert worst(found, network_input(rgb_batch(frames, (40, 56)))) <= TOLERANCE


@on_cpu
@pytest.mark.parametrize(("bit_depth", "channels"), [(9, 3), (12, 1), (16, 3)])
def test_16_bit_frames_become_8_bit_as_the_contract_does_it(bit_depth: int, channels: int) -> None:
    white = 2**bit_depth - 1
    frames = noise(1, 40, 56, channels, below=white + 1, dtype=np.uint16)
    found, over_range = launched(frames, white=white)
    expected = network_input(rgb_batch(frames, (40, 56), bit_depth=bit_depth))
    assert worst(found[:, :3], expected[:, :3]) <= 1e-6  # a grey level is 0.017
    assert worst(found, expected) <= TOLERANCE
    assert over_range == 0


@on_cpu
def test_every_16_bit_value_is_rounded_as_the_contract_does_it() -> None:
    frames = np.arange(1 << 12, dtype=np.uint16).reshape(1, 64, 64, 1)
    found, _ = launched(frames, white=4095)
    assert worst(found[:, :3], network_input(rgb_batch(frames, (64, 64), bit_depth=12))[:, :3]) <= 1e-6


@on_cpu
def test_a_value_over_white_is_reported() -> None:
    frames = np.full((2, 40, 40, 3), 4095, np.uint16)
    frames[1, 39, 39, 2], frames[0, 3, 4, 0] = 5000, 4096
    assert launched(frames, white=4095)[1] == 5000


@on_cpu
@pytest.mark.parametrize("level", [0, 255])
def test_flat_black_and_white_frames(level: int) -> None:
    frames = np.full((1, 40, 40, 3), level, np.uint8)
    assert worst(launched(frames)[0], network_input(frames)) <= TOLERANCE


@on_cpu
def test_the_hardest_frame_for_a_filter_stays_in_tolerance() -> None:
    """White where a kernel is positive: its largest response, the sum with most to round."""
    frame = np.zeros((1, 48, 48, 3), np.uint8)
    frame[0, 8:39, 8:39] = np.where(gabor_bank()[20] > 0, 255, 0)[:, :, np.newaxis]
    found, _ = launched(frame)
    assert worst(found, network_input(frame)) <= TOLERANCE


@on_cpu
@pytest.mark.parametrize(
    "parameters",
    [
        GaborParameters((6.0,), orientations=1),
        GaborParameters((5.0, 9.0), orientations=3, sigma_px=3.0, gamma=0.8),
        GaborParameters((3.0, 5.0, 8.0, 13.0), orientations=12),
        GaborParameters((5.0,), orientations=4, zero_mean=True, psi_rad=float(np.pi)),
    ],
    ids=["one filter", "odd number of angles", "48 filters in three groups", "zero mean, turned phase"],
)
def test_other_banks_match_the_reference(parameters: GaborParameters) -> None:
    frames = noise(1, 33, 38, 3, seed=3)
    assert worst(launched(frames, parameters)[0], network_input(frames, parameters)) <= TOLERANCE


def test_a_bank_that_is_not_even_is_refused_with_the_way_out() -> None:
    with pytest.raises(ArgumentError, match=r"psi_rad must be a multiple of pi, got 0\.3; run this model on the CPU"):
        folded_bank(GaborParameters(psi_rad=0.3))


def test_the_papers_bank_is_one_group_of_24_coefficients_for_each_of_256_taps() -> None:
    assert folded_bank().shape == (1, 16, 16, 24)


@on_cpu
def test_threads_may_run_in_any_order() -> None:
    frames = noise(1, 40, 56, 3)
    np.testing.assert_array_equal(launched(frames)[0], launched(frames, backwards=True)[0])


@on_cpu
def test_a_missing_barrier_is_caught() -> None:
    barrier = "__syncthreads();"
    assert source("edge").count(barrier) == 1
    frames = noise(1, 40, 56, 3)
    found, _ = launched(frames, code=source("edge").replace(barrier, ""))
    assert not worst(found, network_input(frames)) <= TOLERANCE


@on_cpu
def test_a_barrier_that_some_threads_miss_is_caught() -> None:
    lame = source("edge").replace("__syncthreads();", "if (threadIdx.y < 2) __syncthreads();")
    with pytest.raises(KernelError, match="deadlock"):
        launched(noise(1, 32, 32, 3), code=lame)


@on_cpu
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("2 * (side - 1) - at", "2 * side - 1 - at"),
        ("i < SEEN_ROWS;", "i < SEEN_ROWS - 1;"),
        ("j < SEEN_COLUMNS;", "j < SEEN_COLUMNS - 1;"),
        ("x <= RADIUS;", "x < RADIUS;"),
        ("- (right[above] - left[above])", "+ (right[above] - left[above])"),
        ("fabsf(odd[i][k])", "odd[i][k]"),
        ("299 * eight_bit(pixel[0], white) + 587", "298 * eight_bit(pixel[0], white) + 588"),
    ],
    ids=["border", "last row", "last column", "last tap", "odd part", "mirror images", "luma"],
)
def test_planted_errors_are_caught(right: str, wrong: str) -> None:
    assert source("edge").count(right) == 1
    frames = 255 * noise(1, 40, 56, 3, below=2)
    found, _ = launched(frames, code=source("edge").replace(right, wrong))
    assert not worst(found, network_input(frames)) <= TOLERANCE
