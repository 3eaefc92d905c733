"""CSV of cells: one row for each, in the order of the table."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.slide.writers.measurements import measurements
from breastseg_deploy.storage import file_written_whole

_ROWS = 10_000


def write_cells_csv(path: Path, cells: NDArray[np.void], pixel_size_um: float | None, pixel_scale: float = 1.0) -> None:
    """Write a header and a row for each cell, UTF-8; what is not finite is an empty field.

    Args:
        path: of the file; another one there is replaced.
        cells: of CELL_DTYPE.
        pixel_size_um: of the pixels that were analysed; None omits the columns in micrometres.
        pixel_scale: see `measurements`.

    Raises:
        OutputError: no permission, no space.
    """
    with file_written_whole(path) as growing, growing.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["number", *measurements(cells[:0], pixel_size_um)])
        for begin in range(0, len(cells), _ROWS):
            rows = cells[begin : begin + _ROWS]
            columns = [_texts(values) for values in measurements(rows, pixel_size_um, pixel_scale).values()]
            writer.writerows(zip(rows["number"].tolist(), *columns, strict=True))


def _texts(values: NDArray[Any]) -> list[str]:
    if values.dtype.kind != "f":
        return [str(value) for value in values.tolist()]
    return [f"{value:.7g}" if finite else "" for value, finite in zip(values, np.isfinite(values), strict=True)]
