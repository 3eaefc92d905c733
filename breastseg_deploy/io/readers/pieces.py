"""What readers of tiled files share: bytes read by several threads, and pasting a tile into a region."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

LARGEST_PIECE_BYTES = 256 * 2**20
"""Of a decoded tile or strip. Above, a region would need memory without bound: a compressed slide in one strip."""


class SharedFile:
    """An open file. Reading moves its one position, so that a thread holds the lock meanwhile; decoding needs none."""

    def __init__(self, path: Path) -> None:
        self.path, self._file, self._lock = path, path.open("rb"), threading.Lock()

    def bytes_at(self, offset: int, count: int) -> bytes:
        """`count` bytes, fewer where the file ends."""
        with self._lock:
            self._file.seek(offset)
            return self._file.read(count)

    def close(self) -> None:
        """Let the file go."""
        self._file.close()


def paste(out: NDArray[Any], top: int, left: int, piece: NDArray[Any], row: int, column: int) -> None:
    """Copy what a tile at (row, column) and a region at (top, left) share; all four in pixels of one level."""
    first_row, first_column = max(top, row), max(left, column)
    last_row = min(top + out.shape[0], row + piece.shape[0])
    last_column = min(left + out.shape[1], column + piece.shape[1])
    out[first_row - top : last_row - top, first_column - left : last_column - left] = piece[
        first_row - row : last_row - row, first_column - column : last_column - column
    ]


def tiles_in(top: int, left: int, height: int, width: int, tile_px: tuple[int, int]) -> list[tuple[int, int]]:
    """(row, column) in tiles of each tile that meets a region, in reading order."""
    rows = range(top // tile_px[0], -(-(top + height) // tile_px[0]))
    columns = range(left // tile_px[1], -(-(left + width) // tile_px[1]))
    return [(row, column) for row in rows for column in columns]
