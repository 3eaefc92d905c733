"""The certificate of a slide: a random share of it computed once more, with the tiles at other places.

The grid is moved by half a step, so that the borders of the first grid's cores run through the middle of the cores that
are compared. What differs would have been another mask, had the scanner put its corner elsewhere.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.slide.agreement import Agreement, added, agreement, answered_elsewhere
from breastseg_deploy.slide.store import TileStore, eight_bits
from breastseg_deploy.storage import make_folder, write_whole
from breastseg_deploy.tiling import Plan, Tile

SHARE = 0.02
LEAST_TILES = 16

Infer = Callable[[Tile], NDArray[np.float32]]
"""A tile to the probability (H, W) of its core."""
CountCells = Callable[[NDArray[np.uint8], NDArray[np.uint8]], int]
"""Mask and probability (times 255) of a region to the number of cells in it."""


@dataclass(frozen=True)
class Chosen:
    """The tiles of the moved grid that are computed.

    Attributes:
        over_tiles: whose cores share pixels with tiles that were computed.
        over_skipped: whose cores lie in tiles that were skipped.
    """

    over_tiles: list[Tile]
    over_skipped: list[Tile]


def choose(store: TileStore, seed: str) -> Chosen:
    """Pick the tiles: 2 % of each kind, at least 16 or all; no more over skipped tiles than over others, or 16.

    A slide that is one tile needs none, unless that tile was skipped.

    Args:
        store: of the slide.
        seed: a hash in hexadecimal digits, the slide's.
    """
    if len(store.plan) == 1 and not store.skipped:  # the slide in one piece: no answer can depend on a grid
        return Chosen([], [])
    moved = Plan(store.plan.size_px, store.plan.grid, moved=True)
    kinds: tuple[list[Tile], list[Tile]] = ([], [])
    for tile in moved:
        # Skipped and computed tiles are drawn apart: few disagreements among many skipped ones would vanish in a mean.
        touched = ((one.row, one.column) for one in store.plan.touched(tile.core))
        kinds[all(place in store.skipped for place in touched)].append(tile)
    random = np.random.default_rng(int(seed[:16], 16))
    over_tiles = _some(kinds[0], random)
    return Chosen(over_tiles, _some(kinds[1], random)[: max(LEAST_TILES, len(over_tiles))])


def _some(tiles: list[Tile], random: np.random.Generator) -> list[Tile]:
    count = min(len(tiles), max(LEAST_TILES, math.ceil(SHARE * len(tiles))))
    return [tiles[index] for index in random.permutation(len(tiles))[:count]]


class Certificate:
    """The comparisons of one slide, each kept in a file of its own so that none is computed twice.

    Args:
        folder: of these files.
        store: the slide's answer.
        chosen: what is compared.
        threshold: of the mask.
        count_cells: counts cells in a region; what is cut by its border counts on both sides.
    """

    def __init__(
        self, folder: Path, store: TileStore, chosen: Chosen, threshold: float, count_cells: CountCells
    ) -> None:
        self._folder, self._store, self.chosen = folder, store, chosen
        self._threshold, self._count_cells = threshold, count_cells
        make_folder(folder)

    def missing(self) -> list[Tile]:
        """The tiles that are still to be computed."""
        return [tile for tile in self._all() if not self._place(tile).exists()]

    def compare(self, tile: Tile, probability: NDArray[np.float32]) -> None:
        """Compare a core's new answer with the stored one, and keep what comes of it.

        Raises:
            OutputError: it cannot be written.
        """
        core = tile.core
        place = core.top, core.left, *core.size_px
        before, after = self._store.mask(*place), (probability >= self._threshold).astype(np.uint8)
        cells = (
            self._count_cells(before, self._store.probability(*place)),
            self._count_cells(after, eight_bits(probability)),
        )
        compared = answered_elsewhere(self._store.plan, tile, self._store.skipped)
        found = agreement(before[compared], after[compared], cells)
        write_whole(self._place(tile), json.dumps(asdict(found)).encode())

    def summary(self, limit_ppm: float) -> dict[str, Any]:
        """What the result says; every tile has been compared.

        Args:
            limit_ppm: flipped pixels, over which the slide misses its certificate.
        """
        over_tiles = self._found(self.chosen.over_tiles)
        over_skipped = added(self._found(self.chosen.over_skipped))
        total = added(over_tiles)
        worst = self.worst()
        return {
            "flipped_ppm": total.flipped_ppm,
            "dice": total.dice,
            "cells_difference": total.cells_difference,
            "cells_before": total.cells_before,
            "cells_after": total.cells_after,
            "tiles": len(over_tiles),
            "pixels": total.pixels,
            "limit_ppm": limit_ppm,
            "passed": max(total.flipped_ppm, over_skipped.flipped_ppm) <= limit_ppm,
            "worst_tile": None if worst is None else self._described(worst),
            "skipped_tiles": len(self.chosen.over_skipped),
            "skipped_flipped_ppm": over_skipped.flipped_ppm,
        }

    def worst(self) -> Tile | None:
        """The tile with most flipped pixels, the first of them in the order of choice; None where none was compared."""
        tiles = list(self._all())
        return max(tiles, key=lambda tile: self._read(tile).flipped, default=None)

    def _described(self, tile: Tile) -> dict[str, Any]:
        found, core = self._read(tile), tile.core
        return {
            "top": core.top,
            "left": core.left,
            "height": core.size_px[0],
            "width": core.size_px[1],
            "flipped_ppm": found.flipped_ppm,
            "dice": found.dice,
            "cells_before": found.cells_before,
            "cells_after": found.cells_after,
        }

    def _all(self) -> Iterable[Tile]:
        return (*self.chosen.over_tiles, *self.chosen.over_skipped)

    def _found(self, tiles: list[Tile]) -> list[Agreement]:
        return [self._read(tile) for tile in tiles]

    def _read(self, tile: Tile) -> Agreement:
        return Agreement(**json.loads(self._place(tile).read_text("utf-8")))

    def _place(self, tile: Tile) -> Path:
        return self._folder / f"{tile.row}-{tile.column}.json"
