"""The fast edge channel against the plain one, and against OpenCV where the plain one would take too long."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from breastseg_deploy.errors import ArgumentError
from breastseg_deploy.preprocess.fft import edge_channel
from breastseg_deploy.preprocess.gabor import GaborParameters, edge_channel_reference, gabor_bank, luma

TOLERANCE = 1e-5
"""Promised in the docstring; float32 transforms of a 288 x 288 tile are good to about 1e-7."""


def noise(*size: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def by_opencv(rgb: NDArray[np.uint8], parameters: GaborParameters | None = None) -> NDArray[np.float64]:
    """The reference to float64 (held to `edge_channel_reference` in test_gabor), fast enough for large frames."""
    grey = luma(rgb)
    return np.max(
        [cv2.filter2D(grey, cv2.CV_64F, k, borderType=cv2.BORDER_REFLECT_101) for k in gabor_bank(parameters)], 0
    )


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 96), (71, 40)])
def test_fast_edge_channel_matches_the_reference(size: tuple[int, int]) -> None:
    rgb = noise(*size)
    edge = edge_channel(rgb)
    assert edge.dtype == np.float32
    np.testing.assert_allclose(edge, edge_channel_reference(rgb), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("size", [(300, 37), (37, 300), (258, 258), (259, 520), (521, 33)])
def test_tiles_leave_no_seam(size: tuple[int, int]) -> None:
    rgb = noise(*size)
    np.testing.assert_allclose(edge_channel(rgb), by_opencv(rgb), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("level", [0, 255])
def test_flat_black_and_white_frames_match_the_reference(level: int) -> None:
    flat = np.full((40, 40, 3), level, np.uint8)
    np.testing.assert_allclose(edge_channel(flat), edge_channel_reference(flat), rtol=0, atol=TOLERANCE)


def test_colours_are_weighed_as_in_the_reference() -> None:
    for channel in range(3):
        rgb = np.zeros((32, 32, 3), np.uint8)
        rgb[:, 16:, channel] = 255
        np.testing.assert_allclose(edge_channel(rgb), edge_channel_reference(rgb), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    "parameters",
    [
        GaborParameters((6.0,), orientations=1),
        GaborParameters((4.0, 10.0, 20.0), orientations=3),
        GaborParameters((5.0,), orientations=4, psi_rad=1.2, zero_mean=True),
    ],
    ids=["one filter", "nine filters", "odd phase and zero mean"],
)
def test_other_banks_match_the_reference(parameters: GaborParameters) -> None:
    rgb = noise(45, 38, seed=3)
    np.testing.assert_allclose(
        edge_channel(rgb, parameters), edge_channel_reference(rgb, parameters), rtol=0, atol=TOLERANCE
    )


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_no_bit(threads: int) -> None:
    rgb = noise(300, 530)
    np.testing.assert_array_equal(edge_channel(rgb, threads=threads), edge_channel(rgb, threads=1))


@pytest.mark.parametrize("view", ["cropped", "flipped", "turned", "fortran"])
def test_memory_layout_does_not_matter(view: str) -> None:
    whole = noise(90, 90)
    frames = {
        "cropped": whole[5:70, 3:60],
        "flipped": whole[::-1, ::-1],
        "turned": whole.transpose(1, 0, 2),
        "fortran": np.asfortranarray(whole),
    }
    rgb = frames[view]
    # Not to the bit: NumPy sums the three channels of the luma in another order where they lie apart.
    np.testing.assert_allclose(edge_channel(rgb), edge_channel(rgb.copy(order="C")), rtol=0, atol=1e-6)


def test_input_stays_as_it_is() -> None:
    rgb = noise(40, 40)
    before = rgb.copy()
    edge_channel(rgb)
    np.testing.assert_array_equal(rgb, before)


def test_callers_in_many_threads_do_not_disturb_one_another() -> None:
    frames = [noise(64 + 7 * n, 80 + 5 * n, seed=n) for n in range(6)]  # more sizes than the cache of spectra holds
    alone = [edge_channel(frame) for frame in frames]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(edge_channel, frames * 3))
    for found, expected in zip(together, alone * 3, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_result_is_contiguous_and_owned_by_the_caller() -> None:
    rgb = noise(40, 52)
    first = edge_channel(rgb)
    assert first.flags.c_contiguous
    kept = first.copy()
    edge_channel(255 - rgb)
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("size", [(31, 100), (100, 31)])
def test_frames_under_32_pixels_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ArgumentError, match=f"at least 32 x 32 px, got {size[0]} x {size[1]}"):
        edge_channel(np.zeros((*size, 3), np.uint8))
