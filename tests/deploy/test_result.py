"""The cells of a frame's answer: whose parameters they take, and what must be known for them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from breastseg_deploy import Segmenter
from breastseg_deploy.cell_choice import CellChoice, CellFigures, CellsOfSource, parameters_for
from breastseg_deploy.errors import ArgumentError
from breastseg_deploy.instances import DEFAULTS, CellParameters
from breastseg_deploy.phantom import phantom_frame
from breastseg_deploy.result import Segmentation

FIGURES = CellFigures(truth=10, found=9, f1=0.8, ap=0.7, pq=0.6, aji=None, count_error=0.1, close_pairs=4, merged=0.25)
COMPONENTS, GENERAL = CellParameters(method="components"), CellParameters(unit="um", least_area=2.5, depth=0.1)
CHOICE = CellChoice(
    parameters=GENERAL,
    chosen_on="3 frames of val",
    data_sha256="0" * 64,
    figures=FIGURES,
    components=FIGURES,
    sources={"large nuclei": CellsOfSource(figures=FIGURES, parameters=COMPONENTS, own_figures=FIGURES)},
    worst_source="large nuclei",
)


def answer(choice: CellChoice | None, *, probability: bool = True, pixel_size_um: float | None = 0.5) -> Segmentation:
    y, x = np.indices((64, 96))
    mask = ((y - 32) ** 2 + (x - 30) ** 2 <= 144) | ((y - 32) ** 2 + (x - 52) ** 2 <= 144)
    scores = np.where(mask, 1, 0).astype(np.float32) if probability else None
    return Segmentation(mask.astype(np.uint8), scores, {}, "test", cell_choice=choice, pixel_size_um=pixel_size_um)


def test_without_parameters_of_the_bundle_the_defaults_serve_and_the_answer_says_so() -> None:
    cells = answer(None).cells()
    assert cells.parameters == DEFAULTS
    assert "documented defaults" in cells.chosen_on
    assert len(cells.table) == cells.labels.max() == 2


def test_the_bundles_parameters_serve_and_the_answer_says_what_they_were_chosen_on() -> None:
    cells = answer(CHOICE).cells()
    assert (cells.parameters, cells.chosen_on, len(cells.table)) == (GENERAL, "3 frames of val", 2)


def test_a_named_source_has_parameters_of_its_own() -> None:
    assert len(answer(CHOICE).cells(source="large nuclei").table) == 1
    with pytest.raises(ArgumentError, match="source 'small nuclei'; it knows: large nuclei"):
        answer(CHOICE).cells(source="small nuclei")
    with pytest.raises(ArgumentError, match="it knows: none"):
        parameters_for(None, "large nuclei")


def test_intensities_are_those_of_the_frame_in_its_own_units() -> None:
    frame = np.full((64, 96), 1000, np.uint16)
    assert answer(None).cells(frame).table["mean_intensity"].tolist() == [1000, 1000]
    colour = np.dstack([frame] * 3)
    assert answer(None).cells(colour).table["mean_intensity"] == pytest.approx([1000, 1000])
    assert all(math.isnan(value) for value in answer(None).cells().table["mean_intensity"])


def test_another_frame_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"of the mask's size \(64, 96\), got \(64, 95\)"):
        answer(None).cells(np.zeros((64, 95)))


def test_cells_need_the_probability() -> None:
    with pytest.raises(ArgumentError, match="segment with probability=True"):
        answer(None, probability=False).cells()


def test_micrometres_need_the_pixel_size() -> None:
    with pytest.raises(ArgumentError, match="states no pixel size"):
        answer(CHOICE, pixel_size_um=None).cells()


def test_figures_are_told_on_one_line() -> None:
    assert FIGURES.in_words == (
        "10 cells: F1 0.800, AP 0.700, PQ 0.600, count error 0.100, 25% of 4 close pairs merged"
    )


def test_an_opened_bundle_gives_cells(demo_bundle: Path) -> None:
    frame = phantom_frame(0, (128, 128)).frame
    with Segmenter.open(demo_bundle, "onnxruntime") as segment:
        result = segment(frame)
        cells = result.cells(frame)
    assert len(cells.table) == cells.labels.max() >= 1
    assert not (cells.labels[result.mask == 0]).any()
