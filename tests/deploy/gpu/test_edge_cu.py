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
from breastseg_deploy.gpu.bank import packed_bank
from breastseg_deploy.gpu.sources import edge_options, mask_options, source
from breastseg_deploy.preprocess.gabor import GaborParameters, edge_channel_reference, gabor_bank
from breastseg_deploy.preprocess.tensor import network_input

ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_120")
EDGE_REGISTERS = 255
"""Two blocks of 128 threads share 65,536 registers: 256 for a thread, of which 255 have names."""
MASK_REGISTERS = 32
"""Eight blocks of 256 threads fill a multiprocessor's 2,048 threads with 32 each."""

TOLERANCE = {"float32": 1e-5, "float16": 2e-3}
"""Promised in gpu_ops. float32: exact products in sums that are cut off 96 times. float16: half a step below 4."""

on_cpu = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")


def noise(*shape: int, seed: int = 0, below: int = 256, dtype: Any = np.uint8) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(0, below, shape, dtype)


def launched(
    frames: NDArray[Any],
    parameters: GaborParameters | None = None,
    *,
    white: int = 255,
    dtype: str = "float32",
    code: str | None = None,
    backwards: bool = False,
) -> tuple[NDArray[Any], int]:
    """The kernel's tensor for (N, H, W, C) frames, and what it left in `over_range`."""
    count, height, width, channels = frames.shape
    bank = packed_bank(parameters)
    guarded = np.full(count * 4 * height * width + 64, 7, dtype)
    over_range = np.zeros(1, np.uint32)
    module = CpuModule(code or source("edge"), edge_options(frames.dtype, channels, dtype), backwards=backwards)
    arrays = [ctypes.c_void_p(array.ctypes.data) for array in (frames, bank.operands, guarded)]
    numbers = [np.int32(height), np.int32(width), np.int32(bank.groups), np.float32(bank.edge_scale), np.uint32(white)]
    grid = (-(-width // 32), -(-height // 16), count)
    arguments = [*arrays, *map(scalar, numbers), ctypes.c_void_p(over_range.ctypes.data)]
    module.call("edge_tensor", grid, (128, 1, 1), arguments)
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


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_edge_kernel_compiles_within_its_registers_and_spills_none(nvrtc: Any, architecture: str) -> None:
    used = compiled_for(nvrtc, source("edge"), architecture, edge_options(np.uint8, 3, np.float32))
    assert used.registers <= EDGE_REGISTERS
    assert used.frame_bytes == 0


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_frames_and_results_compile_without_spills(nvrtc: Any, channels: int) -> None:
    used = compiled_for(nvrtc, source("edge"), "sm_90", edge_options(np.uint16, channels, np.float16))
    assert used.registers <= EDGE_REGISTERS
    assert used.frame_bytes == 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("logits", ["float32", "float16"])
def test_mask_kernel_compiles_within_its_registers_and_spills_none(nvrtc: Any, architecture: str, logits: str) -> None:
    used = compiled_for(nvrtc, source("mask"), architecture, mask_options(logits))
    assert used.registers <= MASK_REGISTERS
    assert used.frame_bytes == 0


def test_a_kernel_that_spills_would_be_noticed(nvrtc: Any) -> None:
    crowded = source("edge").replace("__launch_bounds__(WARPS * 32, 2)", "__launch_bounds__(WARPS * 32, 4)")
    assert crowded != source("edge")
    used = compiled_for(nvrtc, crowded, "sm_90", edge_options(np.uint8, 3, np.float32))
    assert used.registers <= 128
    assert used.frame_bytes > 0


@on_cpu
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (49, 65)])
def test_kernel_matches_the_reference_at_odd_sizes_borders_included(size: tuple[int, int]) -> None:
    frames = noise(1, *size, 3)
    found, _ = launched(frames)
    assert worst(found, network_input(frames)) <= TOLERANCE["float32"]
    assert worst(found[0, 3], edge_channel_reference(frames[0])) <= TOLERANCE["float32"]


@on_cpu
def test_frames_of_a_batch_do_not_touch_one_another() -> None:
    frames = noise(3, 33, 40, 3)
    found, _ = launched(frames)
    assert worst(found, network_input(frames)) <= TOLERANCE["float32"]
    np.testing.assert_array_equal(found[2:], launched(frames[2:])[0])


@on_cpu
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_colour_in_both_precisions(channels: int, dtype: str) -> None:
    frames = noise(1, 40, 56, channels)
    found, _ = launched(frames, dtype=dtype)
    assert found.dtype == dtype
    assert worst(found, network_input(rgb_batch(frames, (40, 56)))) <= TOLERANCE[dtype]


@on_cpu
@pytest.mark.parametrize(("bit_depth", "channels"), [(9, 3), (12, 1), (16, 3)])
def test_16_bit_frames_become_8_bit_as_the_contract_does_it(bit_depth: int, channels: int) -> None:
    white = 2**bit_depth - 1
    frames = noise(1, 40, 56, channels, below=white + 1, dtype=np.uint16)
    found, over_range = launched(frames, white=white)
    expected = network_input(rgb_batch(frames, (40, 56), bit_depth=bit_depth))
    assert worst(found[:, :3], expected[:, :3]) <= 1e-6  # a grey level is 0.017
    assert worst(found, expected) <= TOLERANCE["float32"]
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
    assert worst(launched(frames)[0], network_input(frames)) <= TOLERANCE["float32"]


@on_cpu
def test_the_hardest_frame_for_a_filter_stays_in_tolerance() -> None:
    """White where a kernel is positive: its largest response, the sum in which everything that is cut off adds up."""
    frame = np.zeros((1, 48, 48, 3), np.uint8)
    frame[0, 8:39, 8:39] = np.where(gabor_bank()[20] > 0, 255, 0)[:, :, np.newaxis]
    found, _ = launched(frame)
    assert worst(found, network_input(frame)) <= TOLERANCE["float32"]


@on_cpu
@pytest.mark.parametrize(
    "parameters",
    [
        GaborParameters((6.0,), orientations=1),
        GaborParameters((5.0, 9.0), orientations=3, sigma_px=3.0, gamma=0.8),
        GaborParameters((3.0, 5.0, 8.0, 13.0), orientations=12),
        GaborParameters((5.0,), orientations=4, zero_mean=True, psi_rad=float(np.pi)),
    ],
    ids=["one filter", "odd number of angles", "48 filters in two groups", "zero mean, turned phase"],
)
def test_other_banks_match_the_reference(parameters: GaborParameters) -> None:
    frames = noise(1, 33, 38, 3, seed=3)
    assert worst(launched(frames, parameters)[0], network_input(frames, parameters)) <= TOLERANCE["float32"]


def test_a_bank_that_is_not_even_is_refused_with_the_way_out() -> None:
    with pytest.raises(ArgumentError, match=r"psi_rad must be a multiple of pi, got 0\.3; run this model on the CPU"):
        packed_bank(GaborParameters(psi_rad=0.3))


def test_the_papers_bank_is_one_group_and_its_halves_keep_22_bits() -> None:
    packed = packed_bank()
    assert packed.operands.shape == (1, 2, 8, 4, 32, 4)
    halves = packed.operands.view(np.float16).astype(np.float64).reshape(2, 8, 4, -1)
    assert np.isfinite(halves).all()
    whole = halves[:, :, [0, 2]] + halves[:, :, [1, 3]]
    assert np.abs(halves[:, :, [1, 3]]).max() <= np.abs(whole).max() * 2**-11


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
    assert not worst(found, network_input(frames)) <= TOLERANCE["float32"]


@on_cpu
def test_a_barrier_that_some_threads_miss_is_caught() -> None:
    lame = source("edge").replace("__syncthreads();", "if (threadIdx.x < 64) __syncthreads();")
    with pytest.raises(KernelError, match="deadlock"):
        launched(noise(1, 32, 32, 3), code=lame)


@on_cpu
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("2 * (side - 1) - at", "2 * side - 1 - at"),
        ("fold(below, above, -2 * s - 3)", "fold(below, above, -2 * s - 2)"),
        ("if (k > first && k <= PAIRS)", "if (k > first && k < PAIRS)"),
        ("multiply(even[j], e_low, even_high);", ""),
        ("multiply(even[j], e_high, even_low);", ""),
    ],
    ids=["border", "window", "last row of the tile", "low part", "remainder of the bank"],
)
def test_planted_errors_are_caught(right: str, wrong: str) -> None:
    assert source("edge").count(right) == 1
    frames = 255 * noise(1, 40, 56, 3, below=2)
    found, _ = launched(frames, code=source("edge").replace(right, wrong))
    assert not worst(found, network_input(frames)) <= TOLERANCE["float32"]
