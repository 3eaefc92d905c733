"""What all writers have in common: one and the same mask, and a full disk leaves nothing half-written."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
import tifffile
from test_dicom_seg import MADE_AT, saved, slide_header
from written import ArrayRaster, drawn, features_of, table_of

from breastseg_deploy.errors import OutputError
from breastseg_deploy.io.images import png_bytes
from breastseg_deploy.slide.writers.cells_csv import write_cells_csv
from breastseg_deploy.slide.writers.dicom_seg import write_dicom_seg
from breastseg_deploy.slide.writers.geojson import write_geojson
from breastseg_deploy.slide.writers.ome_tiff import write_labels_ome_tiff, write_mask_ome_tiff
from breastseg_deploy.slide.writers.slide_page import write_slide_page

NOISE = np.random.default_rng(8)
LABELS = np.zeros((640, 900), np.uint32)
for _number in range(1, 2001):
    _y, _x = NOISE.integers(0, 640), NOISE.integers(0, 900)
    LABELS[_y : _y + NOISE.integers(1, 25), _x : _x + NOISE.integers(1, 25)] = _number
LABELS[NOISE.random(LABELS.shape) < 0.1] = 0  # holes, and parts that touch by a corner
RASTER, CELLS = ArrayRaster(LABELS), table_of(LABELS)
GREY = NOISE.integers(0, 255, (640, 900, 3), dtype=np.uint8)


def write_seg(path: Path, source: Path) -> object:
    return write_dicom_seg(path, RASTER, source, pixel_size_um=0.5, identity="run", made_at=MADE_AT)


def write_page(path: Path, _: Path) -> None:
    picture = {"noise": png_bytes(GREY)}
    write_slide_page(path, {}, cells=CELLS, size_px=RASTER.size_px, pixel_size_um=0.5, pictures=picture)


WRITERS: dict[str, Callable[[Path, Path], object]] = {
    "mask.ome.tif": lambda path, _: write_mask_ome_tiff(path, RASTER, 0.5),
    "labels.ome.tif": lambda path, _: write_labels_ome_tiff(path, RASTER, 0.5),
    "cells.geojson.gz": lambda path, _: write_geojson(path, RASTER, CELLS, 0.5),
    "cells.csv": lambda path, _: write_cells_csv(path, CELLS, 0.5),
    "mask.seg.dcm": write_seg,
    "report.html": write_page,
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The DICOM slide that a segmentation asks for."""
    return saved(slide_header(RASTER.size_px), tmp_path_factory.mktemp("slide") / "slide.dcm")


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file grows beyond 20,000 bytes; the processes of other tests are not concerned."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_geojson_seg_and_ome_tiff_are_the_same_mask_pixel_by_pixel(tmp_path: Path, source: Path) -> None:
    for name in ("mask.ome.tif", "labels.ome.tif", "cells.geojson.gz", "mask.seg.dcm"):
        WRITERS[name](tmp_path / name, source)
    outlines: Any = drawn(features_of(tmp_path / "cells.geojson.gz"), RASTER.size_px)
    seg = highdicom.seg.segread(tmp_path / "mask.seg.dcm").get_total_pixel_matrix(combine_segments=True)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "labels.ome.tif"), LABELS)
    np.testing.assert_array_equal(outlines, LABELS)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "mask.ome.tif") == 255, LABELS > 0)
    np.testing.assert_array_equal(seg == 1, LABELS > 0)


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_sentence_and_leaves_what_was_there(tmp_path: Path, source: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"an earlier one")
    with pytest.raises(OutputError, match=rf"^cannot write .*{name}: .*nothing was left half-written") as caught:
        WRITERS[name](tmp_path / name, source)
    assert "\n" not in str(caught.value)
    assert (tmp_path / name).read_bytes() == b"an earlier one"
    assert {path.name for path in tmp_path.iterdir()} == {name}


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_that_cannot_be_written_to_is_one_sentence(tmp_path: Path, source: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"^cannot write "):
        WRITERS[name](tmp_path / "file" / name, source)
