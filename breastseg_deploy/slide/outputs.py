"""What a run leaves behind beside its result: one place knows names, order and writers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.errors import ArgumentError, SlideError
from breastseg_deploy.extras import require
from breastseg_deploy.slide.source import SlideSource
from breastseg_deploy.slide.store import TileStore
from breastseg_deploy.storage import write_whole
from breastseg_deploy.tiling import Tile

MASK, LABELS, GEOJSON, CSV, DICOM_SEG = (
    "mask.ome.tif",
    "labels.ome.tif",
    "cells.geojson.gz",
    "cells.csv",
    "mask.seg.dcm",
)
OVERVIEW, PAGE, CERTIFICATE = "overview.png", "report.html", "certificate.png"
"""Always written; the last one where there is a tile to show."""

DEFAULT_WRITE = ("ome-tiff", "geojson", "csv")
_FLIPPED_RGB = (255, 0, 0)
OVERVIEW_PX = 2048
"""Longest side of the overview."""


@dataclass(frozen=True)
class Finished:
    """A segmented slide, as writers take it.

    Attributes:
        folder: of the results.
        slide: open.
        store: mask, probability and labels.
        cells: their table.
        identity: a hash of all that the result depends on.
        begun: when the run began.
    """

    folder: Path
    slide: SlideSource
    store: TileStore
    cells: NDArray[np.void]
    identity: str
    begun: datetime


Write = Callable[[Finished], Mapping[str, Any]]
"""Writes its files, and gives what the result should say of them."""


def check_write(write: Collection[str], slide: SlideSource) -> tuple[str, ...]:
    """The kinds of files asked for, in their own order, before the long work.

    Raises:
        ArgumentError: one that nobody knows.
        SlideError: one that does not belong to such a slide, or cannot refer to this one.
        MachineError: a library that one of them needs is not installed.
    """
    unknown = sorted(set(write) - WRITERS.keys())
    if unknown:
        raise ArgumentError(f"no file {unknown[0]!r} is known to write; choose from {', '.join(WRITERS)}")
    if "dicom-seg" in write and (slide.info.format != "DICOM" or not slide.info.files):
        raise SlideError(f"{slide.name} is {slide.info.format}, and dicom-seg belongs to DICOM slides alone; omit it")
    for name in write:
        for module in _NEEDS.get(name, ()):
            require(module, "slides")
    if "dicom-seg" in write:
        from breastseg_deploy.slide.writers.dicom_seg import check_source

        check_source(_dicom_source(slide), slide.size_px, slide.pixel_size_um)
    return tuple(name for name in WRITERS if name in write)


def _write_ome_tiff(done: Finished) -> Mapping[str, Any]:
    from breastseg_deploy.slide.writers.ome_tiff import write_labels_ome_tiff, write_mask_ome_tiff

    write_mask_ome_tiff(done.folder / MASK, done.store, done.slide.pixel_size_um)
    write_labels_ome_tiff(done.folder / LABELS, done.store, done.slide.pixel_size_um)
    return {}


def _write_geojson(done: Finished) -> Mapping[str, Any]:
    from breastseg_deploy.slide.writers.geojson import write_geojson

    scale = _pixel_scale(done.slide)
    write_geojson(done.folder / GEOJSON, done.store, done.cells, done.slide.pixel_size_um, pixel_scale=(scale, scale))
    return {}


def _write_csv(done: Finished) -> Mapping[str, Any]:
    from breastseg_deploy.slide.writers.cells_csv import write_cells_csv

    write_cells_csv(done.folder / CSV, done.cells, done.slide.pixel_size_um, _pixel_scale(done.slide))
    return {}


def _pixel_scale(slide: SlideSource) -> float:
    """How many of the slide's own pixels one of the analysed ones is wide: 1 where the run did not rescale."""
    rescaled_um = slide.conversion.get("rescaled_to_um")
    return 1.0 if rescaled_um is None else float(rescaled_um / slide.conversion["pixel_size_um"])


def _write_dicom_seg(done: Finished) -> Mapping[str, Any]:
    from breastseg_deploy.slide.writers.dicom_seg import write_dicom_seg

    faults = write_dicom_seg(
        done.folder / DICOM_SEG,
        done.store,
        _dicom_source(done.slide),
        pixel_size_um=done.slide.pixel_size_um,
        identity=done.identity,
        made_at=done.begun,
    )
    return {"dicom_seg": {"file": DICOM_SEG, "made_up": list(faults)}}


def _dicom_source(slide: SlideSource) -> Path:
    """The slide's file, or the folder of its files."""
    files = slide.info.files
    return files[0] if len(files) == 1 else files[0].parent


WRITERS: Mapping[str, Write] = {
    "ome-tiff": _write_ome_tiff,
    "geojson": _write_geojson,
    "csv": _write_csv,
    "dicom-seg": _write_dicom_seg,
}
"""By the word of `--write`."""
_NEEDS: Mapping[str, tuple[str, ...]] = {"ome-tiff": ("tifffile",), "dicom-seg": ("pydicom", "highdicom")}


def write_pictures(done: Finished, result: Mapping[str, Any], worst: tuple[Tile, NDArray[np.uint8]] | None) -> None:
    """The overview, the worst tile of the certificate, and the page that shows both.

    Args:
        done: the slide.
        result: what `result.json` will say.
        worst: a tile of the moved grid, and the mask of its core there; None where nothing was compared.
    """
    from breastseg_deploy.io.images import png_bytes
    from breastseg_deploy.slide.writers.overview import draw_overview
    from breastseg_deploy.slide.writers.slide_page import write_slide_page

    thumbnail, _ = done.slide.thumbnail(OVERVIEW_PX)
    cores = [done.store.plan[place].core for place in sorted(done.store.skipped)]
    skipped = [(core.top, core.left, core.bottom, core.right) for core in cores]
    pixel_size_um = done.slide.pixel_size_um
    overview = png_bytes(draw_overview(thumbnail, done.store, skipped, pixel_size_um))
    write_whole(done.folder / OVERVIEW, overview)
    pictures = {"Overview": overview}
    if worst is not None:
        flips = png_bytes(_flipped(done, *worst))
        write_whole(done.folder / CERTIFICATE, flips)
        pictures["Worst tile of the certificate; red: flipped pixels"] = flips
    write_slide_page(
        done.folder / PAGE,
        result,
        cells=done.cells,
        size_px=done.store.size_px,
        pixel_size_um=pixel_size_um,
        pictures=pictures,
    )


def _flipped(done: Finished, tile: Tile, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A core as the slide has it, with the mask's outline, and in red what another grid would have answered."""
    from breastseg_deploy.io.images import overlay

    place = tile.core.top, tile.core.left, *tile.core.size_px
    before = done.store.mask(*place)
    drawn = overlay(done.slide.read_rgb(*place), before)
    drawn[before != mask] = _FLIPPED_RGB
    return drawn
