"""Table I of a data set."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from breastseg_deploy.cli.command import run_command
from breastseg_deploy.errors import DataError, OutputError
from breastseg_train.data.mask_statistics import mask_statistics
from breastseg_train.data.statistics import draw_size_distribution, split_names, split_statistics
from breastseg_train.data.statistics_command import COMMAND


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    COMMAND.add_arguments(parser)
    return run_command(COMMAND, parser.parse_args(arguments))


def test_table_1_is_worked_out_by_hand() -> None:
    empty, cells = np.zeros((10, 20), np.uint8), np.zeros((10, 20), np.uint8)
    cells[1:3, 1:6] = 1
    cells[5:8, 10:20] = 1
    table = split_statistics([mask_statistics(mask) for mask in (empty, cells, empty, cells)])
    assert (table.images, table.with_cells, table.without_cells) == (4, 2, 2)
    assert table.average_cell_size == pytest.approx(0.2)
    assert table.cell_pixels == pytest.approx(0.1)
    assert (table.cells, table.cells_per_image, table.median_cell_px) == (4, 2, 20)
    assert table.small_structures == 4


def test_a_split_without_cells_has_no_average_size() -> None:
    table = split_statistics([mask_statistics(np.zeros((32, 32), np.uint8))])
    assert (table.average_cell_size, table.cells_per_image, table.median_cell_px) == (None, None, None)


def test_all_splits_are_found_by_default(data_root: Path) -> None:
    assert split_names(data_root) == ["test", "train", "val"]


def test_a_folder_without_splits_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no splits; expected folders such as"):
        split_names(tmp_path)


def test_json_holds_every_split_and_the_weights_of_its_frames(
    data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(str(data_root), "--weights", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["splits"]["train"]["images"] == 4
    assert result["splits"]["train"]["with_cells"] == 3
    assert result["weights"]["train"]["train-2"] == 1
    assert result["weights"]["train"]["train-0"] > 1


def test_the_table_has_the_papers_rows(data_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(data_root), "--splits", "train", "val") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["Characteristic", "train", "val"]
    assert [line[:18].strip() for line in lines[1:6]] == [
        "Total images",
        "With cells",
        "Without cells",
        "Avg. cell size",
        "Cell pixels",
    ]


def test_a_data_set_with_problems_ends_with_exit_code_1(data_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(data_root), "--splits", "train", "nowhere") == 1
    assert "2 problem(s)" in capsys.readouterr().err


def test_the_size_distribution_is_drawn(data_root: Path, tmp_path: Path) -> None:
    picture = tmp_path / "sizes.png"
    assert run(str(data_root), "--picture", str(picture)) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write the picture"):
        draw_size_distribution({"train": np.array([5, 50])}, tmp_path / "nowhere" / "sizes.png")
