"""A model beside Otsu's thresholds, source by source, and the page that shows it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from discs import disc_frame

from breastseg_train.data.dataset import read_data_set
from breastseg_train.evaluate.comparison import MODEL, compare
from breastseg_train.evaluate.otsu import OTSU_DATA_SET, OTSU_FRAME, otsu_predictors, otsu_threshold
from breastseg_train.evaluate.report import report_html
from breastseg_train.evaluate.table import COLUMNS, aligned, rows_of


def brightness(frames: np.ndarray) -> np.ndarray:
    """A predictor that calls bright pixels cells."""
    return frames[..., 0].astype(np.float32) / 255


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_is_opencvs(seed: int) -> None:
    frame, _ = disc_frame(seed, cells=3)
    expected, _ = cv2.threshold(frame, 0, 255, cv2.THRESH_OTSU)
    assert otsu_threshold(np.bincount(frame.ravel(), minlength=256)) == expected


def test_a_frame_of_one_level_has_no_cell_by_otsu(data_root: Path) -> None:
    by_frame = otsu_predictors(read_data_set(data_root, ["test"]).splits["test"])[OTSU_FRAME]
    assert not by_frame(np.full((1, 64, 64, 3), 9, np.uint8)).any()


def test_the_threshold_of_the_data_set_leaves_an_empty_frame_empty(data_root: Path) -> None:
    samples = read_data_set(data_root, ["test"]).splits["test"]
    empty = next(frame for frame, mask in (sample.read() for sample in samples) if not mask.any())
    found = otsu_predictors(samples)
    assert found[OTSU_FRAME](empty[None]).any()
    assert not found[OTSU_DATA_SET](empty[None]).any()


def test_otsu_stands_beside_the_model_on_the_same_frames(data_root: Path) -> None:
    samples = read_data_set(data_root, ["test"]).splits["test"]
    result = compare(brightness, samples, 0.3, data_root).result
    assert list(result["compared"]) == [MODEL, OTSU_FRAME, OTSU_DATA_SET]
    assert {found["frames"] for found in result["compared"].values()} == {3}
    assert result["compared"][OTSU_FRAME]["with_cells"]["dice"]["mean"] > 0.9
    assert result["sources"] == {}


def test_each_source_of_the_manifest_has_rows_of_its_own(data_root: Path) -> None:
    lines = ["split,name,dataset", "test,test-0,here", "test,test-1,there", "test,test-2,there"]
    (data_root / "manifest.csv").write_text("\n".join(lines))
    samples = read_data_set(data_root, ["test"]).splits["test"]
    result = compare(brightness, samples, 0.3, data_root).result
    assert {source: group[MODEL]["frames"] for source, group in result["sources"].items()} == {"here": 1, "there": 2}
    assert [row[:2] for row in rows_of(result)[3:5]] == [("here (1)", MODEL), ("here (1)", OTSU_FRAME)]


def test_the_table_of_the_terminal_is_aligned() -> None:
    assert aligned(("a", "bb"), [("ccc", "d")]) == "a    bb\nccc  d"


def test_the_page_holds_the_table_the_calibration_and_the_pictures(data_root: Path) -> None:
    samples = read_data_set(data_root, ["test"]).splits["test"]
    result = compare(brightness, samples, 0.3, data_root).result
    page = report_html("Evaluation of <demo>", {"backend": "pytorch"}, result, b"picture")
    assert "Evaluation of &lt;demo&gt;" in page
    assert all(column in page for column in COLUMNS)
    assert f"calibration error {result['calibration']['ece']:.4f}" in page
    assert page.count("data:image/png;base64,") == 2
    assert "src='http" not in page


def test_a_page_without_frames_to_show_omits_them(data_root: Path) -> None:
    samples = [one for one in read_data_set(data_root, ["test"]).splits["test"] if not one.read()[1].any()]
    page = report_html("x", {}, compare(brightness, samples, 0.3, data_root).result, None)
    assert "<h2>Frames</h2>" not in page
