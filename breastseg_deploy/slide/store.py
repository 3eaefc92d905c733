"""A slide's answer on disk while it grows: one file per tile, written whole; read back region by region.

Mask and probability are kept apart: a probability rounded to 8 bits would move pixels across the threshold.
"""

from __future__ import annotations

import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.errors import OutputError
from breastseg_deploy.storage import make_folder, write_whole
from breastseg_deploy.tiling import Box, Plan, Tile

_TILES, _LABELS = "tiles", "labels"
_LEVEL = 1
"""Of zlib: the files live as long as the run does."""
_CACHED_BYTES = 2**26
"""Decoded blocks that are held: a row of tiles is read more than once while it is written out."""

Place = tuple[int, int]
"""Row and column of a tile, or top and left of a block of labels."""


class TileStore:
    """The answers of a plan's tiles; a `raster.SlideRaster`.

    Args:
        folder: of the files.
        plan: of the tiles.
        skipped: tiles that nobody computes: their mask and probability are 0.
        block_px: side of the blocks that labels are written in, from the top left corner on.
    """

    def __init__(self, folder: Path, plan: Plan, skipped: Iterable[Place] = (), block_px: int = 1024) -> None:
        self.plan, self.skipped, self.block_px = plan, frozenset(skipped), block_px
        self._tiles, self._labels = folder / _TILES, folder / _LABELS
        make_folder(self._tiles)
        make_folder(self._labels)
        self._cache: OrderedDict[tuple[str, Place], NDArray[np.uint8] | NDArray[np.uint32]] = OrderedDict()
        self._held = 0
        self._turn = threading.Lock()

    @property
    def size_px(self) -> tuple[int, int]:
        """(H, W) of the slide."""
        return self.plan.size_px

    def missing(self) -> list[Tile]:
        """The tiles that are still to be computed, in order."""
        there = {path.name for path in self._tiles.iterdir()}
        wanted = (tile for tile in self.plan if (tile.row, tile.column) not in self.skipped)
        return [tile for tile in wanted if _tile_name((tile.row, tile.column)) not in there]

    def write(self, tile: Tile, mask: NDArray[np.uint8], probability: NDArray[np.float32]) -> None:
        """Keep the answer of a tile's core.

        Args:
            tile: of the plan.
            mask: of the core, (H, W), 0 or 1.
            probability: of the core, (H, W).

        Raises:
            OutputError: no permission, no space.
        """
        content = np.packbits(mask).tobytes() + eight_bits(probability).tobytes()
        write_whole(self._tiles / _tile_name((tile.row, tile.column)), zlib.compress(content, _LEVEL))

    def write_labels(self, top: int, left: int, labels: NDArray[np.uint32]) -> None:
        """Keep a block of labels, which begins at a multiple of `block_px` and ends there or at the slide's border.

        Raises:
            OutputError: no permission, no space.
        """
        if labels.any():  # a block without a file holds none
            content = zlib.compress(np.ascontiguousarray(labels, np.uint32).tobytes(), _LEVEL)
            write_whole(self._labels / _label_name((top, left)), content)

    def mask(self, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        """See `SlideRaster.mask`."""
        return self._gathered(Box(top, left, top + height, left + width), 0)

    def probability(self, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        """See `SlideRaster.probability`."""
        return self._gathered(Box(top, left, top + height, left + width), 1)

    def labels(self, top: int, left: int, height: int, width: int) -> NDArray[np.uint32]:
        """See `SlideRaster.labels`; all 0 before any were written."""
        box, found = Box(top, left, top + height, left + width), np.zeros((height, width), np.uint32)
        side = self.block_px
        for down in range(top // side * side, box.bottom, side):
            for right in range(left // side * side, box.right, side):
                own = Box(down, right, min(down + side, self.size_px[0]), min(right + side, self.size_px[1]))
                block = self._cached((_LABELS, (down, right)), partial(self._read_labels, own))
                _paste(found, box, block, own)
        return found

    def _gathered(self, box: Box, layer: int) -> NDArray[np.uint8]:
        """A region of the masks (layer 0) or of the probabilities (1)."""
        found = np.zeros(box.size_px, np.uint8)
        for tile in self.plan.touched(box):
            place = tile.row, tile.column
            if place not in self.skipped:
                layers = self._cached((_TILES, place), partial(self._read_tile, tile))
                _paste(found, box, layers[layer], tile.core)
        return found

    def _cached(
        self, key: tuple[str, Place], read: Callable[[], NDArray[np.uint8] | NDArray[np.uint32]]
    ) -> NDArray[np.uint8] | NDArray[np.uint32]:
        with self._turn:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        block = read()  # outside the lock: several threads may decode
        with self._turn:
            self._held += 0 if key in self._cache else block.nbytes
            self._cache[key] = block
            while self._held > _CACHED_BYTES:
                self._held -= self._cache.popitem(last=False)[1].nbytes
        return block

    def _read_tile(self, tile: Tile) -> NDArray[np.uint8]:
        """(2, H, W): mask and probability of a core."""
        (height, width), pixels = tile.core.size_px, tile.core.area_px
        packed = -(-pixels // 8)
        content = _content(self._tiles / _tile_name((tile.row, tile.column)), packed + pixels)
        layers = np.empty((2, height, width), np.uint8)
        layers[0] = np.unpackbits(np.frombuffer(content, np.uint8, packed), count=pixels).reshape(height, width)
        layers[1] = np.frombuffer(content, np.uint8, offset=packed).reshape(height, width)
        return layers

    def _read_labels(self, own: Box) -> NDArray[np.uint32]:
        path = self._labels / _label_name((own.top, own.left))
        if not path.exists():
            return np.zeros(own.size_px, np.uint32)
        return np.frombuffer(_content(path, 4 * own.area_px), np.uint32).reshape(own.size_px)


def eight_bits(probability: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A probability times 255, rounded."""
    return np.asarray(np.rint(probability * 255), np.uint8)


def _tile_name(place: Place) -> str:
    return f"{place[0]}-{place[1]}.tile"


def _label_name(place: Place) -> str:
    return f"{place[0]}-{place[1]}.labels"


def _content(path: Path, length: int) -> bytes:
    try:
        content = zlib.decompress(path.read_bytes())
        if len(content) == length:
            return content
        reason = f"it holds {len(content)} bytes, expected {length}"
    except (OSError, zlib.error) as err:
        reason = str(err)
    raise OutputError(f"the unfinished result {path} is damaged ({reason}); remove its folder and run again")


def _paste(found: NDArray[np.generic], box: Box, block: NDArray[np.generic], own: Box) -> None:
    """Copy what a block shares with a box into `found`, the box's pixels."""
    shared = Box(max(box.top, own.top), max(box.left, own.left), min(box.bottom, own.bottom), min(box.right, own.right))
    inside = Box(shared.top - own.top, shared.left - own.left, shared.bottom - own.top, shared.right - own.left)
    target = Box(shared.top - box.top, shared.left - box.left, shared.bottom - box.top, shared.right - box.left)
    target.of(found)[:] = inside.of(block)
