"""Sources of frames, mosaics, and how often each is drawn."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from breastseg_deploy.errors import ArgumentError, DataError
from breastseg_train.data.dataset import Sample, read_data_set
from breastseg_train.data.mask_statistics import MaskStatistics
from breastseg_train.data.sources import EMPTY_SHARE, balanced_weights, cut_mosaics, sources

EMPTY = MaskStatistics(4096, 0, (), 0)
CELL = MaskStatistics(4096, 400, (400,), 40)
CROWD = MaskStatistics(4096, 2500, (100,) * 25, 40)


@pytest.fixture
def samples(data_root: Path) -> tuple[Sample, ...]:
    return read_data_set(data_root, ["train"]).splits["train"]


def test_the_manifest_beside_the_splits_names_the_source(data_root: Path, samples: tuple[Sample, ...]) -> None:
    lines = ["name,split,dataset,licence", "train-0,train,here,CC0", "train-1,train,there,CC0", "train-2,val,no,CC0"]
    (data_root / "manifest.csv").write_text("\n".join(lines))
    assert sources(data_root, samples) == ["here", "there", "", ""]


def test_without_a_manifest_all_frames_are_of_one_source(data_root: Path, samples: tuple[Sample, ...]) -> None:
    assert set(sources(data_root, samples)) == {""}


def test_a_manifest_without_sources_is_refused(data_root: Path, samples: tuple[Sample, ...]) -> None:
    (data_root / "manifest.csv").write_text("split,name\n")
    with pytest.raises(DataError, match=r"manifest\.csv lacks the column\(s\) dataset"):
        sources(data_root, samples)


def test_a_mosaic_is_cut_into_the_images_that_it_was_laid_from(data_root: Path, samples: tuple[Sample, ...]) -> None:
    rows = [f"train,train-1,{top},{left},32,32" for top in (0, 32) for left in (0, 32)]
    (data_root / "mosaics.csv").write_text("\n".join(["split,name,dst_y,dst_x,height,width", *rows]))
    cut = cut_mosaics(data_root, samples)
    assert [sample.name for sample in cut] == ["train-0", *["train-1"] * 4, "train-2", "train-3"]
    whole = cv2.imread(str(samples[1].image), cv2.IMREAD_GRAYSCALE)
    frame, mask = cut[2].read()
    assert np.array_equal(frame[..., 0], whole[:32, 32:])
    assert mask.shape == (32, 32)


def test_a_place_in_a_mosaic_that_is_no_number_is_refused(data_root: Path, samples: tuple[Sample, ...]) -> None:
    (data_root / "mosaics.csv").write_text("split,name,dst_y,dst_x,height,width\ntrain,train-1,x,0,32,32\n")
    with pytest.raises(DataError, match="the place of train-1 must be whole pixels"):
        cut_mosaics(data_root, samples)


def test_sources_are_drawn_alike_whatever_their_numbers() -> None:
    weights = balanced_weights(["a"] * 9 + ["b"], [CELL] * 10, {})
    assert weights[:9].sum() == pytest.approx(0.5)
    assert weights[9] == pytest.approx(0.5)


def test_a_share_changes_how_often_a_source_is_drawn() -> None:
    weights = balanced_weights(["a", "b"], [CELL] * 2, {"b": 3})
    assert weights.tolist() == pytest.approx([0.25, 0.75])


def test_empty_frames_have_a_fixed_share_together() -> None:
    weights = balanced_weights(["a"] * 4, [CELL, EMPTY, EMPTY, EMPTY], {})
    assert weights[1:].sum() == pytest.approx(EMPTY_SHARE)
    assert weights.sum() == pytest.approx(1)


def test_complex_frames_are_drawn_oftener_inside_a_source() -> None:
    one, crowded = balanced_weights(["a", "a"], [CELL, CROWD], {})
    assert crowded / one == pytest.approx(CROWD.complexity / CELL.complexity)


def test_frames_without_any_cell_are_all_drawn_alike() -> None:
    assert balanced_weights(["a", "b"], [EMPTY] * 2, {}).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("shares", [{"c": 1.0}, {"a": 0.0}])
def test_a_share_that_means_nothing_is_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ArgumentError, match="a positive number for one of a, b, got"):
        balanced_weights(["a", "b"], [CELL] * 2, shares)
