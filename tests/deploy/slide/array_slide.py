"""Slides in memory, a network that is one line, and a bundle that holds nothing but its manifest."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.bundle import MANIFEST, MODEL, PORTABLE, SLIDE, SLIDE_NETWORK, Bundle
from breastseg_deploy.contract import IMAGENET_MEAN, IMAGENET_STD
from breastseg_deploy.instances import CellParameters
from breastseg_deploy.io.slide import Level, SlideInfo
from breastseg_deploy.manifest import parse_manifest
from breastseg_deploy.preprocess.gabor import GaborParameters, bank_sha256
from breastseg_deploy.tiling import Grid

GRID = Grid(192, 64)
LIMITS = {"worst_dice": 0.9999, "mean_dice": 0.9999, "dice_change": 0.001}
CELL_FIGURES = {"truth": 1, "found": 1, "close_pairs": 0} | dict.fromkeys(
    ("f1", "ap", "pq", "aji", "count_error", "merged")
)
PARITY = {
    "engine": "ONNX Runtime",
    "frames": 1,
    "frames_with_cells": 1,
    "mean_dice": 1,
    "worst_dice": 1,
    "mean_dice_with_cells": 1,
    "worst_flipped_ppm": 0,
    "worst_surface_dice": 1,
    "largest_probability_error": 0,
    "dice_change": None,
    "limits": LIMITS,
}


class ArraySlide:
    """A slide that is an RGB array."""

    def __init__(self, rgb: NDArray[np.uint8], name: str = "slide", pixel_size_um: float | None = None) -> None:
        self.rgb, self.name, self.pixel_size_um = rgb, name, pixel_size_um
        self.size_px: tuple[int, int] = (rgb.shape[0], rgb.shape[1])
        self.conversion: dict[str, Any] = {"channel": "RGB"}
        levels = (Level(self.size_px, 1.0),)
        self.info = SlideInfo("array", self.size_px, ("R", "G", "B"), "uint8", 8, None, levels)

    def read_rgb(self, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        assert 0 <= top < top + height <= self.size_px[0]
        assert 0 <= left < left + width <= self.size_px[1]
        return self.rgb[top : top + height, left : left + width]

    def read_intensity(self, top: int, left: int, height: int, width: int) -> NDArray[np.float32]:
        return self.read_rgb(top, left, height, width)[:, :, 0].astype(np.float32)

    def thumbnail(self, longest_px: int) -> tuple[NDArray[np.uint8], float]:
        factor = max(1, -(-max(self.size_px) // longest_px))
        return self.rgb[::factor, ::factor], float(factor)

    def sha256(self) -> str:
        return sha256(self.rgb.tobytes()).hexdigest()


class BrightPixels:
    """A network that answers each pixel by its own brightness, so that no tile can matter."""

    name, title = "bright", "bright pixels 1.0"

    def __init__(self, before: Callable[[int], object] = lambda _: None) -> None:
        self.before, self.calls, self.closed = before, 0, False
        self._busy = threading.Lock()

    def infer(self, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        assert self._busy.acquire(blocking=False), "two threads in one network"
        try:
            self.before(self.calls)
            self.calls += 1
            return np.clip(0.5 + 0.25 * tensor[0, 0], 0, 1).astype(np.float32)
        finally:
            self._busy.release()

    def close(self) -> None:
        self.closed = True


class GridShows(BrightPixels):
    """A network that compares each pixel with the first of its tile: the mask depends on the grid."""

    name, title = "grid", "the grid shows 1.0"

    def infer(self, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        return super().infer(tensor - tensor[0, 0, 0, 0])


def discs(size_px: tuple[int, int], count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Bright discs on black, (H, W, 3) uint8."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[: size_px[0], : size_px[1]]
    image = np.full(size_px, 10, np.uint8)
    for _ in range(count):
        centre = random.uniform(0, size_px)
        radius = random.uniform(6, 10)
        image[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2] = random.integers(180, 256)
    return np.repeat(image[:, :, np.newaxis], 3, axis=2)


def made_up_bundle(
    folder: Path,
    *,
    limit_ppm: float = 100.0,
    pixel_size_um: float | None = None,
    grid: Grid = GRID,
    cells: CellParameters | None = None,
) -> Bundle:
    """A bundle of a manifest alone: what a run reads of it."""
    gabor = GaborParameters(wavelengths_px=(4.0,), orientations=2)  # most of the time of a run
    artefact = {"inputs": [], "outputs": [], "limits": LIMITS, "parity": []}
    agreement = {"images": "", "tiles": 1, "pixels": 1, "flipped_ppm": 0, "worst_flipped_ppm": 0, "dice": 1}
    details = {
        "tile_px": grid.tile_px,
        "halo_px": grid.halo_px,
        "window_px": 64,
        "pools": 0,
        "parity": PARITY,
        "agreement": agreement,
        "whole_flipped_ppm": 0,
        "limit_ppm": limit_ppm,
    }
    file = {"bytes": 0, "sha256": "0" * 64}
    manifest = {
        "schema_version": 3,
        "name": "made up",
        "encoder": "none",
        "decoder_channels": [],
        "frame": {"height_px": 64, "width_px": 64, "pixel_size_um": pixel_size_um},
        "gabor": {**asdict(gabor), "sha256": bank_sha256(gabor)},
        "normalisation": {"mean": IMAGENET_MEAN, "std": IMAGENET_STD},
        "threshold": 0.5,
        "precision": "fp32",
        "opset": 20,
        "artefacts": [
            {"role": PORTABLE, "files": [MODEL], **artefact},
            {"role": SLIDE, "files": [SLIDE_NETWORK], "details": details, **artefact},
        ],
        "parity_frames": "",
        "goldens": ["golden"],
        "files": dict.fromkeys((MODEL, SLIDE_NETWORK, "golden"), file),
        "built_with": {},
        "built_at": "",
        "licence": "",
        "intended_use": "tests",
        "training": {},
    }
    if cells is not None:
        choice = {"parameters": cells.model_dump(), "chosen_on": "", "data_sha256": ""}
        manifest["cells"] = {**choice, "figures": CELL_FIGURES, "components": CELL_FIGURES}
    folder.mkdir(exist_ok=True)
    text = json.dumps(manifest)
    (folder / MANIFEST).write_text(text)
    return Bundle(folder, parse_manifest(text, MANIFEST))
