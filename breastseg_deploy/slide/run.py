"""A slide from the first tile to its certificate and files; a run that was killed goes on where it was."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.artefacts import SlideTiles
from breastseg_deploy.backends.tiles import TileNetwork, bundle_tiles
from breastseg_deploy.bundle import MANIFEST, SLIDE, Bundle, file_entry
from breastseg_deploy.cell_choice import parameters_for
from breastseg_deploy.errors import SlideError
from breastseg_deploy.instances import split_cells
from breastseg_deploy.io.open_slide import same_pixel_size
from breastseg_deploy.slide.cells import find_cells
from breastseg_deploy.slide.certificate import Certificate, choose
from breastseg_deploy.slide.foreground import LARGEST_RANGE, empty_tiles
from breastseg_deploy.slide.outputs import DEFAULT_WRITE, WRITERS, Finished, check_write, write_pictures
from breastseg_deploy.slide.pipeline import StageSeconds, TilePipeline
from breastseg_deploy.slide.record import RunFolder
from breastseg_deploy.slide.result import SlideResult
from breastseg_deploy.slide.source import SlideSource
from breastseg_deploy.slide.store import TileStore
from breastseg_deploy.tiling import Plan, Tile
from breastseg_deploy.version import __version__

_LABEL_BLOCK_PX = 1024
_CELL_FIGURES = ("area_px", "eccentricity", "mean_probability", "mean_intensity")


@dataclass(frozen=True)
class Request:
    """What a run is asked for.

    Attributes:
        folder: of the results, for this slide alone.
        write: kinds of files, see `outputs.WRITERS`.
        skip_empty: whether tiles of nothing but background are skipped.
        threads: that prepare tiles.
    """

    folder: Path
    write: Collection[str] = DEFAULT_WRITE
    skip_empty: bool = True
    threads: int = 2


def segment_slide(slide: SlideSource, bundle: Bundle, network: TileNetwork, request: Request) -> SlideResult:
    """Segment a slide, certify it, find its cells and write the files; or find all that done already.

    Args:
        slide: open; it stays open.
        bundle: opened.
        network: its slide artefact, loaded.
        request: see there.

    Raises:
        SlideError: the slide cannot be read, is too small, or has another pixel size than the bundle.
        OutputError: the folder is in use, or holds something else; no permission, no space. What is done stays.
        BackendError: the engine failed.
        ArgumentError: a kind of file that nobody knows, or the bundle's cells are measured in micrometres and the slide
            states no pixel size.
        MachineError: a library is missing.
        BundleError: the bundle holds no slide artefact.
    """
    # What can be refused is, before the slide is hashed, which reads every byte of it.
    tiles, write = bundle_tiles(bundle), check_write(request.write, slide)
    _check_name(slide.name)
    check_pixel_size(bundle.manifest.frame.pixel_size_um, slide)
    parameters_for(bundle.manifest.cells).in_unit("px", slide.pixel_size_um)
    plan = Plan(slide.size_px, tiles.grid)
    seconds = StageSeconds()
    with seconds.of("hash"):
        provenance = _provenance(slide, bundle, network, tiles, write, request)
    # All that the result depends on names the run: what another run left in the folder is refused.
    folder = RunFolder(request.folder, provenance)
    with folder.claimed() as finished:
        if finished is not None:
            folder.clear()  # an earlier call may have been killed between its result and this
            return SlideResult(request.folder, finished, "done")
        begun = folder.begin()
        started = time.perf_counter()
        run = _Run(slide, bundle, network, tiles, plan, folder, seconds, request)
        result = run.result(write, begun)
        seconds.add("total", time.perf_counter() - started)
        result["seconds"] = seconds.rounded()
        folder.finish(result)
    return SlideResult(request.folder, {**result, "provenance": folder.provenance}, "resumed" if run.resumed else "")


def check_pixel_size(bundle_um: float | None, slide: SlideSource) -> None:
    """Refuse a slide whose pixels are of another size than those that the bundle was trained on.

    Raises:
        SlideError: both state a size, and they differ by over 1 %.
    """
    slide_um = slide.pixel_size_um
    if bundle_um is None or slide_um is None or same_pixel_size(slide_um, bundle_um):
        return
    raise SlideError(
        f"{slide.name} has pixels of {slide_um:g} um and the bundle was made for {bundle_um:g} um; pass "
        f"rescale_to_um={bundle_um:g} (--rescale) to resample it"
    )


def _check_name(name: str) -> None:
    """Refuse a name that no result can state: files from an old share may have names in another encoding.

    Raises:
        SlideError: it is no UTF-8.
    """
    try:
        name.encode()
    except UnicodeEncodeError as err:
        raise SlideError("the slide's name is not UTF-8, and its results state it; rename it") from err


class _Run:
    """One call's work on a slide, stage by stage; each stage omits what an earlier call has done."""

    def __init__(
        self,
        slide: SlideSource,
        bundle: Bundle,
        network: TileNetwork,
        tiles: SlideTiles,
        plan: Plan,
        folder: RunFolder,
        seconds: StageSeconds,
        request: Request,
    ) -> None:
        self._slide, self._tiles, self._folder, self._seconds = slide, tiles, folder, seconds
        self._threshold = bundle.manifest.threshold
        self._parameters = parameters_for(bundle.manifest.cells)
        gabor = bundle.manifest.gabor.parameters()
        self._pipeline = TilePipeline(slide, network, gabor, request.threads, seconds)
        with seconds.of("foreground"):
            skipped = empty_tiles(slide, plan) if request.skip_empty else []
        self._store = TileStore(folder.work, plan, skipped, _LABEL_BLOCK_PX)
        self._missing = self._store.missing()
        self.resumed = len(self._missing) + len(skipped) < len(plan)

    def result(self, write: tuple[str, ...], begun: datetime) -> dict[str, Any]:
        """All stages, and what `result.json` says of them."""
        # The certificate needs the masks, the cells need them whole, and writers need the cells; each stage is on disk
        # before the next one begins, so a run that was killed goes on behind its last tile.
        rate = self._answer()
        certificate = self._certify()
        with self._seconds.of("cells"):
            cells = self._find_cells()
        result: dict[str, Any] = {
            "certificate": certificate.summary(self._tiles.limit_ppm),
            "cells": described_cells(cells, self._slide.pixel_size_um),
            "tiles": len(self._store.plan),
            "skipped": self._skipped(),
        }
        identity = _identity(self._folder.provenance)
        done = Finished(self._folder.fresh_files(), self._slide, self._store, cells, identity, begun)
        with self._seconds.of("files"):
            for name in write:
                result |= WRITERS[name](done)
        with self._seconds.of("certificate"):
            worst = self._worst(certificate)
        result |= {"seconds": self._seconds.rounded(), "mpx_per_s": rate}
        write_pictures(done, {**result, "provenance": self._folder.provenance}, worst)
        return result

    def _answer(self) -> float | None:
        """Every tile that is missing; the rate in megapixels per second, None where none was."""

        def keep(tile: Tile, probability: NDArray[np.float32]) -> None:
            self._store.write(tile, (probability >= self._threshold).astype(np.uint8), probability)

        if not self._missing:
            return None
        started = time.perf_counter()
        self._pipeline.run(self._missing, keep, f"segment {self._slide.name}")
        took = time.perf_counter() - started
        self._seconds.add("tiles", took)
        return round(sum(tile.core.area_px for tile in self._missing) / 1e6 / took, 3)

    def _certify(self) -> Certificate:
        def count(mask: NDArray[np.uint8], probability: NDArray[np.uint8]) -> int:
            return int(split_cells(mask, probability, self._parameters, self._slide.pixel_size_um).max(initial=0))

        # Drawn by the slide's own hash: nobody can pick the tiles, and the same run gives the same certificate.
        chosen = choose(self._store, str(self._folder.provenance["slide"]["sha256"]))
        certificate = Certificate(self._folder.work / "certificate", self._store, chosen, self._threshold, count)
        if missing := certificate.missing():
            with self._seconds.of("certificate"):
                self._pipeline.run(missing, certificate.compare, f"certify {self._slide.name}")
        return certificate

    def _find_cells(self) -> NDArray[np.void]:
        return find_cells(
            self._store,
            self._store.block_px,
            self._store.write_labels,
            self._slide.read_intensity,
            self._parameters,
            self._slide.pixel_size_um,
        )

    def _skipped(self) -> dict[str, Any]:
        return {
            "tiles": len(self._store.skipped),
            "rule": f"luma of the core varies by at most {LARGEST_RANGE} of 255 on a small picture of the slide",
            "largest_range": LARGEST_RANGE,
        }

    def _worst(self, certificate: Certificate) -> tuple[Tile, NDArray[np.uint8]] | None:
        """The worst tile of the certificate, and its mask on the moved grid; None where nothing was compared."""
        tile = certificate.worst()
        if tile is None:
            return None
        return tile, (self._pipeline.answer(tile) >= self._threshold).astype(np.uint8)


def described_cells(cells: NDArray[np.void], pixel_size_um: float | None) -> dict[str, Any]:
    """Count, and the spread of the figures of all cells, as the result states them."""
    told: dict[str, Any] = {"count": len(cells), "touching_border": int(cells["touches_border"].sum())}
    for name in _CELL_FIGURES if len(cells) else ():
        low, middle, high = np.percentile(cells[name], (5, 50, 95)).tolist()
        told[name] = {"mean": float(cells[name].mean()), "p5": low, "median": middle, "p95": high}
    if len(cells) and pixel_size_um is not None:
        told["mean_area_um2"] = float(cells["area_px"].mean()) * pixel_size_um**2
    return told


def _provenance(
    slide: SlideSource,
    bundle: Bundle,
    network: TileNetwork,
    tiles: SlideTiles,
    write: tuple[str, ...],
    request: Request,
) -> dict[str, Any]:
    """All that a result depends on; a run goes on only where every entry is the same."""
    return {
        "slide": {
            "name": slide.name,
            "sha256": slide.sha256(),
            "format": slide.info.format,
            "size_px": list(slide.size_px),
            "pixel_size_um": slide.pixel_size_um,
            "conversion": dict(slide.conversion),
        },
        "bundle": {
            "name": bundle.manifest.name,
            "manifest_sha256": file_entry(bundle.path / MANIFEST).sha256,
            "artefact_sha256": bundle.sha256_of(SLIDE),
            "threshold": bundle.manifest.threshold,
        },
        "tiling": {"tile_px": tiles.tile_px, "halo_px": tiles.halo_px, "window_px": tiles.window_px},
        "cells": parameters_for(bundle.manifest.cells).model_dump(mode="json"),
        "skip_empty": LARGEST_RANGE if request.skip_empty else None,
        "write": list(write),
        "backend": network.name,
        "engine": network.title,
        "versions": {"breastseg-deploy": __version__, "numpy": np.__version__},
        "intended_use": bundle.manifest.intended_use,
    }


def _identity(provenance: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(provenance, sort_keys=True).encode()).hexdigest()
