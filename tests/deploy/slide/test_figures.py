"""Figures of cells against scikit-image's regionprops."""

from __future__ import annotations

import time

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.measure import regionprops

from breastseg_deploy.instances import split_cells
from breastseg_deploy.slide.figures import measure_cells
from breastseg_deploy.slide.raster import CELL_DTYPE


def cells(seed: int, size_px: tuple[int, int]) -> tuple[NDArray[np.uint32], NDArray[np.uint8], NDArray[np.float32]]:
    """Labels of a noisy field with cells of many shapes, holes and borders included; probability; intensity."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((size_px[0] // 8 + 1, size_px[1] // 8 + 1)).repeat(8, axis=0).repeat(8, axis=1)
    mask = (coarse[: size_px[0], : size_px[1]] > 0.55) & (rng.random(size_px) > 0.04)
    probability = rng.integers(128, 256, size_px, np.uint8)
    return split_cells(mask, probability), probability, rng.random(size_px, np.float32)


@pytest.mark.parametrize("seed", range(4))
def test_all_figures_are_those_of_regionprops(seed: int) -> None:
    labels, probability, intensity = cells(seed, (120, 150))
    table = measure_cells(labels, probability, intensity)
    assert table.dtype == CELL_DTYPE
    expected = regionprops(labels.astype(np.int64), np.stack([probability / 255, intensity], axis=-1))
    assert len(expected) == len(table) > 20
    for cell, props in zip(table, expected, strict=True):
        assert cell["number"] == props.label
        assert (cell["top"], cell["left"], cell["bottom"], cell["right"]) == props.bbox
        assert cell["area_px"] == props.area
        assert (cell["centroid_y_px"], cell["centroid_x_px"]) == pytest.approx(props.centroid)
        assert cell["perimeter_px"] == pytest.approx(props.perimeter)
        assert cell["eccentricity"] == pytest.approx(props.eccentricity, abs=1e-6)
        assert [cell["mean_probability"], cell["mean_intensity"]] == pytest.approx(props.intensity_mean)
        top, left, bottom, right = props.bbox
        assert cell["touches_border"] == (top == 0 or left == 0 or bottom == 120 or right == 150)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 2), (3, 3)])
def test_tiny_cells_have_the_figures_of_regionprops(shape: tuple[int, int]) -> None:
    labels = np.zeros((9, 9), np.uint32)
    labels[2 : 2 + shape[0], 1 : 1 + shape[1]] = 5
    (cell,) = measure_cells(labels, np.full((9, 9), 255, np.uint8), np.ones((9, 9)))
    (props,) = regionprops(labels.astype(int))
    assert cell["perimeter_px"] == pytest.approx(props.perimeter)
    assert cell["eccentricity"] == pytest.approx(props.eccentricity)
    assert cell["number"] == 5


def test_a_region_of_an_image_gives_the_same_figures_to_the_last_bit() -> None:
    labels, probability, intensity = cells(9, (120, 150))
    whole = measure_cells(labels, probability, intensity)
    inside = whole[(whole["top"] >= 31) & (whole["left"] >= 17) & (whole["bottom"] <= 101) & (whole["right"] <= 140)]
    kept = np.where(np.isin(labels, inside["number"]), labels, 0).astype(np.uint32)[31:101, 17:140]
    region = (slice(31, 101), slice(17, 140))
    part = measure_cells(kept, probability[region], intensity[region], place=(31, 17), image_px=(120, 150))
    assert len(inside) > 3
    assert np.array_equal(part, inside)


def test_no_cell_is_an_empty_table() -> None:
    empty = np.zeros((8, 8), np.uint32)
    assert len(measure_cells(empty, empty.astype(np.uint8), empty)) == 0


def test_a_million_cells_would_take_minutes_and_not_hours() -> None:
    labels = np.kron(np.arange(1, 101 * 101 + 1, dtype=np.uint32).reshape(101, 101), np.ones((12, 12), np.uint32))
    began = time.process_time()
    table = measure_cells(labels, (labels % 256).astype(np.uint8), labels)
    assert len(table) == 101 * 101
    assert (time.process_time() - began) / len(table) * 1e6 < 900
