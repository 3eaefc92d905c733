"""The bank against eq. (4) written out once more, and the reference edge channel against OpenCV."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest

from breastseg_deploy.errors import ArgumentError
from breastseg_deploy.preprocess.gabor import (
    KERNEL_PX,
    RADIUS_PX,
    GaborParameters,
    bank_sha256,
    edge_channel_reference,
    gabor_bank,
    luma,
)

DEFAULTS = GaborParameters()
ODD_PHASE = GaborParameters((5.0, 9.0), orientations=6, sigma_px=4.0, gamma=0.7, psi_rad=0.6)
CELLS = [(0, 0, 0), (2, 3, -7), (7, -15, 15), (9, -4, 11), (15, 15, 15), (20, 1, 0), (23, -13, -2)]


def value_of_equation_4(p: GaborParameters, wavelength: float, k: int, x: int, y: int) -> float:
    theta = math.radians(k * 180 / p.orientations)
    turned_x = x * math.cos(theta) + y * math.sin(theta)
    turned_y = -x * math.sin(theta) + y * math.cos(theta)
    envelope = math.exp(-(turned_x**2 + p.gamma**2 * turned_y**2) / (2 * p.sigma_px**2))
    return envelope * math.cos(2 * math.pi * turned_x / wavelength + p.psi_rad)


def scaled_value(p: GaborParameters, number: int, x: int, y: int) -> float:
    wavelength, k = p.wavelengths_px[number // p.orientations], number % p.orientations
    reach = range(-RADIUS_PX, RADIUS_PX + 1)
    total = math.fsum(abs(value_of_equation_4(p, wavelength, k, i, j)) for i in reach for j in reach)
    return value_of_equation_4(p, wavelength, k, x, y) / total


@pytest.mark.parametrize(("number", "x", "y"), CELLS)
def test_bank_holds_equation_4_divided_by_its_absolute_sum(number: int, x: int, y: int) -> None:
    found = gabor_bank()[number, y + RADIUS_PX, x + RADIUS_PX]
    assert found == pytest.approx(scaled_value(DEFAULTS, number, x, y), abs=1e-15)


@pytest.mark.parametrize(("number", "x", "y"), [(0, 4, 2), (3, -5, 9), (11, 14, -14)])
def test_bank_follows_every_parameter_of_equation_4(number: int, x: int, y: int) -> None:
    found = gabor_bank(ODD_PHASE)[number, y + RADIUS_PX, x + RADIUS_PX]
    assert found == pytest.approx(scaled_value(ODD_PHASE, number, x, y), abs=1e-15)


def test_default_bank_is_the_papers_three_wavelengths_by_eight_orientations() -> None:
    assert DEFAULTS.wavelengths_px == (4.0, 10.0, 20.0)
    assert gabor_bank().shape == (24, 31, 31)
    assert gabor_bank().dtype == np.float64


@pytest.mark.parametrize("parameters", [DEFAULTS, ODD_PHASE, replace(DEFAULTS, zero_mean=True)])
def test_absolute_values_of_each_kernel_sum_to_one(parameters: GaborParameters) -> None:
    np.testing.assert_allclose(np.abs(gabor_bank(parameters)).sum(axis=(1, 2)), 1, rtol=0, atol=1e-14)


def test_kernels_without_phase_are_even() -> None:
    bank = gabor_bank()
    np.testing.assert_allclose(bank, bank[:, ::-1, ::-1], rtol=0, atol=1e-16)


def test_kernels_with_phase_are_not_even() -> None:
    bank = gabor_bank(ODD_PHASE)
    assert np.abs(bank - bank[:, ::-1, ::-1]).max() > 1e-3


@pytest.mark.parametrize("k", [1, 2, 3])
def test_orientations_theta_and_180_minus_theta_are_mirror_images(k: int) -> None:
    bank = gabor_bank().reshape(3, 8, KERNEL_PX, KERNEL_PX)
    np.testing.assert_allclose(bank[:, k], bank[:, 8 - k, :, ::-1], rtol=0, atol=1e-16)
    assert np.abs(bank[:, k] - bank[:, 8 - k]).max() > 1e-4


def test_first_filter_of_a_wavelength_has_its_stripes_upright() -> None:
    middle_row, middle_column = gabor_bank()[0][RADIUS_PX], gabor_bank()[0][:, RADIUS_PX]
    assert middle_row[RADIUS_PX + 2] < 0 < middle_row[RADIUS_PX]  # half a period of 4 px to the right
    assert (middle_column > 0).all()


def test_zero_mean_takes_the_answer_to_flat_brightness_away() -> None:
    assert np.abs(gabor_bank(replace(DEFAULTS, zero_mean=True)).sum(axis=(1, 2))).max() < 1e-15
    assert np.abs(gabor_bank().sum(axis=(1, 2))).max() > 0.1


@pytest.mark.parametrize("wavelengths", [(), (2.0,), (4.0, 1.9), (-4.0,)])
def test_wavelengths_at_or_under_nyquist_are_refused(wavelengths: tuple[float, ...]) -> None:
    with pytest.raises(ArgumentError, match=r"over 2 px \(Nyquist\), got \("):
        GaborParameters(wavelengths_px=wavelengths)


@pytest.mark.parametrize("orientations", [0, -1, 181, 10**9])
def test_a_bank_without_orientations_or_with_far_too_many_is_refused(orientations: int) -> None:
    with pytest.raises(ArgumentError, match=f"needs 1 to 180 orientations, got {orientations}"):
        GaborParameters(orientations=orientations)


@pytest.mark.parametrize("change", [{"sigma_px": 0.0}, {"sigma_px": -5.0}, {"gamma": 0.0}, {"gamma": -0.5}])
def test_envelopes_without_extent_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ArgumentError, match="sigma_px and gamma must be positive"):
        replace(DEFAULTS, **change)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["sigma_px", "gamma", "psi_rad", "wavelengths_px"])
def test_parameters_that_are_not_finite_are_refused(name: str, value: float) -> None:
    with pytest.raises(ArgumentError, match="must be finite"):
        replace(DEFAULTS, **{name: (4.0, value) if name == "wavelengths_px" else value})


def test_hash_of_the_papers_bank_is_pinned() -> None:
    """Bundles out there carry it: a change here makes every one of them refuse to open."""
    assert bank_sha256() == "0765fccca2dc9dd791b01d43bd2b83b4e3540135b6e98c6d027c4a17e451f355"


def test_hash_is_the_same_for_the_same_parameters_by_default_or_by_name() -> None:
    assert bank_sha256() == bank_sha256(GaborParameters()) == bank_sha256(replace(DEFAULTS))


def test_hash_changes_with_every_parameter() -> None:
    changes: list[dict[str, object]] = [
        {"wavelengths_px": (4.0, 10.0, 20.001)},
        {"wavelengths_px": (10.0, 4.0, 20.0)},
        {"orientations": 7},
        {"sigma_px": 5.0001},
        {"gamma": 0.5001},
        {"psi_rad": 0.0001},
        {"zero_mean": True},
    ]
    hashes = {bank_sha256(), *(bank_sha256(replace(DEFAULTS, **change)) for change in changes)}  # type: ignore[arg-type]
    assert len(hashes) == len(changes) + 1


def test_luma_weighs_red_green_and_blue_by_bt601() -> None:
    pixels = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], np.uint8)
    np.testing.assert_allclose(luma(pixels)[0], [0.299, 0.587, 0.114, 1.0], atol=1e-15)


@pytest.mark.parametrize("size", [(32, 32), (41, 57)])
def test_reference_is_correlation_with_reflect_101_borders_as_in_opencv(size: tuple[int, int]) -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    grey = rgb.astype(np.float64) @ [0.299, 0.587, 0.114] / 255
    responses = [
        cv2.filter2D(grey, cv2.CV_64F, kernel, borderType=cv2.BORDER_REFLECT_101) for kernel in gabor_bank(ODD_PHASE)
    ]
    np.testing.assert_allclose(edge_channel_reference(rgb, ODD_PHASE), np.max(responses, axis=0), rtol=0, atol=1e-13)


def test_reference_of_a_flat_frame_is_its_brightness_times_the_largest_kernel_sum() -> None:
    flat = np.full((32, 40, 3), 102, np.uint8)
    expected = 0.4 * gabor_bank().sum(axis=(1, 2)).max()
    np.testing.assert_allclose(edge_channel_reference(flat), expected, rtol=0, atol=1e-13)


def test_reference_responses_stay_within_one() -> None:
    stripes = np.zeros((33, 64, 3), np.uint8)
    stripes[:, (np.arange(64) % 4) < 2] = 255
    edge = edge_channel_reference(stripes)
    assert 0.3 < edge.max() <= 1


@pytest.mark.parametrize("size", [(31, 64), (64, 31), (1, 1)])
def test_frames_too_small_for_the_reflected_border_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ArgumentError, match=f"at least 32 x 32 px, got {size[0]} x {size[1]}"):
        edge_channel_reference(np.zeros((*size, 3), np.uint8))
