"""CSV of cells."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from written import table_of

from breastseg_deploy.slide.writers.cells_csv import write_cells_csv

LABELS = np.zeros((9, 9), np.uint32)
LABELS[1:3, 1:5], LABELS[5:9, 4:6] = 1, 2


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_row_tells_of_each_cell_in_pixels_and_micrometres(tmp_path: Path) -> None:
    write_cells_csv(tmp_path / "cells.csv", table_of(LABELS), 0.5)
    first, second = rows_of(tmp_path / "cells.csv")
    assert (first["number"], first["centroid_x_px"], first["centroid_y_px"]) == ("1", "2.5", "1.5")
    assert (first["centroid_x_um"], first["area_px"], first["area_um2"]) == ("1.25", "8", "2")
    assert (second["number"], second["touches_border"]) == ("2", "0")


def test_without_a_pixel_size_nothing_is_told_in_micrometres(tmp_path: Path) -> None:
    write_cells_csv(tmp_path / "cells.csv", table_of(LABELS), None)
    assert [name for name in rows_of(tmp_path / "cells.csv")[0] if name.endswith(("_um", "_um2"))] == []


def test_what_is_not_finite_is_an_empty_field(tmp_path: Path) -> None:
    cells = table_of(LABELS)
    cells["mean_intensity"] = np.nan, np.inf
    write_cells_csv(tmp_path / "cells.csv", cells, 0.5)
    assert [row["mean_intensity"] for row in rows_of(tmp_path / "cells.csv")] == ["", ""]


@pytest.mark.parametrize("count", [0, 10_000, 10_001])
def test_no_row_is_lost_between_the_pieces_that_are_written(tmp_path: Path, count: int) -> None:
    cells = np.resize(table_of(LABELS), count)
    cells["number"] = np.arange(1, count + 1)
    write_cells_csv(tmp_path / "cells.csv", cells, 0.5)
    assert [int(row["number"]) for row in rows_of(tmp_path / "cells.csv")] == list(range(1, count + 1))


def test_places_of_a_rescaled_run_are_those_of_the_slides_own_pixels(tmp_path: Path) -> None:
    """Pixels of 0.5 um that were 0.25 um: the middle of the cell stays where it is on the slide."""
    write_cells_csv(tmp_path / "cells.csv", table_of(LABELS), 0.5, pixel_scale=2.0)
    first = rows_of(tmp_path / "cells.csv")[0]
    assert (first["centroid_x_px"], first["centroid_y_px"]) == ("5.5", "3.5")  # columns 1 to 4 were 2 to 9
    assert (first["centroid_x_um"], first["area_um2"]) == ("1.375", "2")
