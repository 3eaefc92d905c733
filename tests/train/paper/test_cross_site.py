"""Leave one source out: what is trained on, what is measured, what the table says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from discs import disc_frame, write_frame
from small_unet import UNET

from breastseg_deploy.errors import ArgumentError, DataError
from breastseg_train.paper.cross_site import cross_site, cross_site_table


@pytest.fixture
def two_sources(tmp_path: Path) -> Path:
    """Six frames to train on, four to validate, seven to test, by turns of the sources "here" and "there"."""
    root, rows = tmp_path / "data", ["split,name,dataset"]
    for split, count in {"train": 6, "val": 4, "test": 7}.items():
        for i in range(count):
            frame, mask = disc_frame(len(rows), cells=0 if i == 4 else 3)
            write_frame(root, split, f"{split}-{i}", frame, mask)
            rows.append(f"{split},{split}-{i},{'there' if i % 2 else 'here'}")
    (root / "manifest.csv").write_text("\n".join(rows))
    return root


def names(split: Path) -> list[str]:
    return sorted(path.stem for path in (split / "images").iterdir())


def test_no_frame_of_the_source_trains_or_validates_and_all_test_frames_are_its_own(
    two_sources: Path, tmp_path: Path
) -> None:
    cross_site(two_sources, tmp_path / "out", [UNET], only=["here"])
    view = tmp_path / "out" / "without-here" / "data"
    assert names(view / "train") == ["train-1", "train-3", "train-5"]
    assert names(view / "val") == ["val-1", "val-3"]
    assert names(view / "test") == ["test-0", "test-2", "test-4", "test-6"]
    description = json.loads((tmp_path / "out" / "without-here" / "unet" / "run.json").read_text())
    assert description["data"]["splits"] == {"train": {"train": 3}, "validate": {"val": 2}}


def test_both_models_and_otsu_are_measured_on_the_same_frames(two_sources: Path, tmp_path: Path) -> None:
    rows = cross_site(two_sources, tmp_path / "out", [UNET])
    assert [row["source"] for row in rows] == ["here", "there"]
    for row, frames in zip(rows, (4, 3), strict=True):
        measured = (row["otsu"], row["presets"]["unet"]["within"], row["presets"]["unet"]["without"])
        assert [one["frames"] for one in measured] == [frames] * 3
    text = (tmp_path / "out" / "table.md").read_text()
    assert text == cross_site_table(rows)
    assert text.splitlines()[0].count("the source") == 2
    assert json.loads((tmp_path / "out" / "table.json").read_text()) == rows


def test_finished_runs_stay(two_sources: Path, tmp_path: Path) -> None:
    rows = cross_site(two_sources, tmp_path / "out", [UNET], only=["there"])
    said: list[str] = []
    assert cross_site(two_sources, tmp_path / "out", [UNET], only=["there"], say=said.append) == rows
    assert said == ["leaving out there"]


def test_one_source_cannot_be_left_out(data_root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"two sources at least, got none; name them in .*manifest\.csv"):
        cross_site(data_root, tmp_path / "out", [UNET])


def test_a_source_without_test_frames_is_refused_by_name(two_sources: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no test frame comes from elsewhere; choose from here, there"):
        cross_site(two_sources, tmp_path / "out", [UNET], only=["elsewhere"])


def test_weights_for_a_preset_that_is_not_trained_are_refused(two_sources: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="encoder weights were given for general, which is not trained here"):
        cross_site(two_sources, tmp_path / "out", [UNET], encoder_weights={"general": "package"})
