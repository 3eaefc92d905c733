"""GeoJSON as QuPath reads it: a detection for each cell, its outline along the edges of its pixels."""

from __future__ import annotations

import gzip
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.errors import SlideError
from breastseg_deploy.slide.raster import SlideRaster
from breastseg_deploy.slide.writers.measurements import PLACES, measurements
from breastseg_deploy.slide.writers.rings import Polygon, stride_of, trace
from breastseg_deploy.storage import file_written_whole

BLOCK_PX = 1024
"""Cells that begin in one block of this side are read and traced together."""

_GZIP_LEVEL = 6
_IDS = uuid.UUID("8f0c1b0e-0f5e-5d8e-8c1d-2a6f6b0f4c57")


def write_geojson(
    path: Path,
    raster: SlideRaster,
    cells: NDArray[np.void],
    pixel_size_um: float | None,
    *,
    pixel_scale: tuple[float, float] = (1.0, 1.0),
) -> None:
    """Write a FeatureCollection, compressed, with a Feature for each cell; the polygons hold exactly its pixels.

    Ids are UUIDs made of the outline, the same in every run. Memory goes with the number of cells (their table) and
    with the box of the largest one, not with the slide.

    Args:
        path: of the file, such as cells.geojson.gz; another one there is replaced.
        raster: the slide.
        cells: of CELL_DTYPE; their boxes say where each is read.
        pixel_size_um: None omits the measurements in micrometres.
        pixel_scale: pixels of the slide's file for each of the raster, (vertical, horizontal): QuPath counts in the
            file's own pixels, from the corner of the top left one.

    Raises:
        OutputError: no permission, no space.
        SlideError: a cell of the table has no pixels in the raster.

    Source: QuPath's GsonTools, QuPathTypeAdapters and ROITypeAdapters.
    """
    with file_written_whole(path) as growing, _compressing(growing) as file:
        file.write('{"type":"FeatureCollection","features":[')
        separator = "\n"
        for block in _blocks(cells):
            features = _features(raster, block, measurements(block, pixel_size_um), pixel_scale)
            file.write(separator + ",\n".join(features))
            separator = ",\n"
        file.write("\n]}\n")


@contextmanager
def _compressing(path: Path) -> Iterator[TextIO]:
    """A text file in gzip's format without a name and a time inside: the same text gives the same bytes."""
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", _GZIP_LEVEL, raw, mtime=0) as compressed,
        TextIOWrapper(compressed, "utf-8", newline="\n") as file,
    ):
        yield file


def _blocks(cells: NDArray[np.void]) -> Iterator[NDArray[np.void]]:
    """The cells by the block that the corner of their box lies in; one larger than a block comes alone."""
    large = np.maximum(cells["bottom"] - cells["top"], cells["right"] - cells["left"]) > BLOCK_PX
    columns = int(cells["left"].max(initial=0)) // BLOCK_PX + 1
    block = cells["top"] // BLOCK_PX * columns + cells["left"] // BLOCK_PX
    block[large] = -1 - np.flatnonzero(large)
    order = np.argsort(block, kind="stable")
    borders = [0, *(np.flatnonzero(np.diff(block[order])) + 1).tolist(), len(cells)]
    for begin, end in pairwise(borders):
        if end > begin:
            yield cells[order[begin:end]]


def _features(
    raster: SlideRaster, cells: NDArray[np.void], columns: dict[str, NDArray[Any]], pixel_scale: tuple[float, float]
) -> Iterator[str]:
    top, left = int(cells["top"].min()), int(cells["left"].min())
    labels = raster.labels(top, left, int(cells["bottom"].max()) - top, int(cells["right"].max()) - left)
    wanted = np.zeros(max(int(labels.max()), int(cells["number"].max())) + 1, bool)
    wanted[cells["number"]] = True
    labels = np.where(wanted[labels], labels, 0)  # others are cut off by this region, and come in their own
    outlines = trace(labels)
    down = [f"{(top + row) * pixel_scale[0]:.12g}" for row in range(labels.shape[0] + 1)]
    across = [f"{(left + column) * pixel_scale[1]:.12g}" for column in range(stride_of(labels))]
    told = {name: values for name, values in columns.items() if name not in PLACES}
    names, rows = list(told), zip(*(_numbers(values) for values in told.values()), strict=True)
    for number, row in zip(cells["number"].tolist(), rows, strict=True):
        if number not in outlines:
            raise SlideError(
                f"cell {number} has no pixels in the labels of its box; run the slide again from the start"
            )
        geometry = _geometry(outlines[number], across, down)
        values = ",".join(f'"{name}":{value}' for name, value in zip(names, row, strict=True))
        yield (
            f'{{"type":"Feature","id":"{uuid.uuid5(_IDS, geometry)}","geometry":{geometry},'
            f'"properties":{{"objectType":"detection","name":"{number}","measurements":{{{values}}}}}}}'
        )


def _geometry(polygons: list[Polygon], across: list[str], down: list[str]) -> str:
    texts = [_polygon(polygon, across, down) for polygon in polygons]
    if len(texts) == 1:
        return f'{{"type":"Polygon","coordinates":{texts[0]}}}'
    return f'{{"type":"MultiPolygon","coordinates":[{",".join(texts)}]}}'


def _polygon(polygon: Polygon, across: list[str], down: list[str]) -> str:
    """The rings, closed; `across` and `down` hold how each column and row of corners is written."""
    stride = len(across)
    rings = (
        ",".join([f"[{across[corner % stride]},{down[corner // stride]}]" for corner in (*ring, ring[0])])
        for ring in polygon
    )
    return f"[[{'],['.join(rings)}]]"


def _numbers(values: NDArray[Any]) -> list[str]:
    """As JSON; QuPath reads what is not finite as a string."""
    if values.dtype.kind != "f":
        return [str(value) for value in values.tolist()]
    names = {"nan": '"NaN"', "inf": '"Infinity"', "-inf": '"-Infinity"'}
    return [names.get(text, text) for text in (f"{value:.7g}" for value in values.tolist())]
