"""How a slide is cut into tiles: which pixels the network sees at once, and which of its answers are kept.

The slide is first padded at its lower and right border to a multiple of 32, by reflection (`padded_size`). Tiles start
at multiples of 32, because the network's grid of 32 px would fall elsewhere otherwise and its answer with it. All tiles
of a slide are of one size: the last of a row or column is moved back into the slide, where it sees more and keeps less.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from breastseg_deploy.contract import SIDE_MULTIPLE_PX
from breastseg_deploy.errors import ArgumentError


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels; half-open."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def size_px(self) -> tuple[int, int]:
        """(H, W)."""
        return self.bottom - self.top, self.right - self.left

    @property
    def area_px(self) -> int:
        """Number of pixels."""
        return (self.bottom - self.top) * (self.right - self.left)

    def of(self, image: NDArray[Any]) -> NDArray[Any]:
        """These pixels of an image (H, W, ...), as a view."""
        return image[self.top : self.bottom, self.left : self.right]


@dataclass(frozen=True)
class Tile:
    """One tile of a plan.

    Attributes:
        row, column: in the plan, from 0.
        seen: what the network sees; it may reach over the slide's lower and right border by less than 32 px.
        core: the pixels of the slide that keep this tile's answer.
    """

    row: int
    column: int
    seen: Box
    core: Box

    def kept(self, answer: NDArray[Any]) -> NDArray[Any]:
        """The core's part of an answer (H, W) to the whole tile, as a view."""
        down, right = self.core.top - self.seen.top, self.core.left - self.seen.left
        height, width = self.core.size_px
        return answer[down : down + height, right : right + width]


@dataclass(frozen=True)
class Grid:
    """The measures of a plan, as a bundle's manifest states them.

    Attributes:
        tile_px: side of a tile; a multiple of 32, over twice the halo.
        halo_px: rim of a tile whose answer is thrown away inside the slide; a multiple of 32.

    Raises:
        ArgumentError: they are not.
    """

    tile_px: int
    halo_px: int

    def __post_init__(self) -> None:
        if self.tile_px % SIDE_MULTIPLE_PX or self.halo_px % SIDE_MULTIPLE_PX or self.halo_px < 0:
            raise ArgumentError(
                f"tile and halo must be multiples of {SIDE_MULTIPLE_PX} px, got {self.tile_px} and {self.halo_px}"
            )
        if self.tile_px - 2 * self.halo_px < 2 * SIDE_MULTIPLE_PX:
            raise ArgumentError(
                f"a tile must keep at least {2 * SIDE_MULTIPLE_PX} px between its halos, got a tile of {self.tile_px} "
                f"px with a halo of {self.halo_px}"
            )

    @property
    def step_px(self) -> int:
        """From tile to tile: what a tile inside the slide keeps."""
        return self.tile_px - 2 * self.halo_px

    @property
    def half_step_px(self) -> int:
        """What a grid is moved by for the certificate: half a step, as a multiple of 32."""
        return self.step_px // 2 // SIDE_MULTIPLE_PX * SIDE_MULTIPLE_PX


@dataclass(frozen=True)
class Plan:
    """All tiles of a slide: their cores cover it, each pixel once.

    Args:
        size_px: (H, W) of the slide, each at least 32.
        grid: of the tiles.
        moved: whether borders of cores lie half a step before those of the plan that is not moved.

    Raises:
        ArgumentError: a side below 32 px.
    """

    size_px: tuple[int, int]
    grid: Grid
    moved: bool = False

    def __post_init__(self) -> None:
        if min(self.size_px) < SIDE_MULTIPLE_PX:
            raise ArgumentError(
                f"a slide must be at least {SIDE_MULTIPLE_PX} x {SIDE_MULTIPLE_PX} px, got {self.size_px[0]} x "
                f"{self.size_px[1]}"
            )

    @cached_property
    def tile_size_px(self) -> tuple[int, int]:
        """(H, W) of every tile."""
        height, width = padded_size(self.size_px)
        return min(self.grid.tile_px, height), min(self.grid.tile_px, width)

    @cached_property
    def rows(self) -> tuple[Span, ...]:
        """The rows of tiles."""
        return tuple(_spans(self.size_px[0], self.grid, self.moved))

    @cached_property
    def columns(self) -> tuple[Span, ...]:
        """The columns of tiles."""
        return tuple(_spans(self.size_px[1], self.grid, self.moved))

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def __iter__(self) -> Iterator[Tile]:
        return (self[row, column] for row in range(len(self.rows)) for column in range(len(self.columns)))

    def __getitem__(self, place: tuple[int, int]) -> Tile:
        row, column = place
        (height, width), down, right = self.tile_size_px, self.rows[row], self.columns[column]
        seen = Box(down.origin, right.origin, down.origin + height, right.origin + width)
        return Tile(row, column, seen, Box(down.begin, right.begin, down.end, right.end))

    def touched(self, box: Box) -> Iterator[Tile]:
        """The tiles whose cores hold a pixel of a box that lies inside the slide."""
        rows = _touched(self.rows, box.top, box.bottom)
        columns = _touched(self.columns, box.left, box.right)
        return (self[row, column] for row in rows for column in columns)


@dataclass(frozen=True)
class Span:
    """A row or column of tiles along its axis: where the tiles begin, and which pixels they keep."""

    origin: int
    begin: int
    end: int


def padded_size(size_px: tuple[int, int]) -> tuple[int, int]:
    """(H, W) rounded up to multiples of 32."""
    height, width = (-(-side // SIDE_MULTIPLE_PX) * SIDE_MULTIPLE_PX for side in size_px)
    return height, width


def _spans(side: int, grid: Grid, moved: bool) -> Iterator[Span]:
    padded, _ = padded_size((side, side))
    begin = 0
    while begin < side:
        # The halo before the core: none at the slide's border, more than asked for where the tile was moved back.
        origin = max(0, min(begin - grid.halo_px, padded - grid.tile_px))
        end = origin + grid.tile_px - grid.halo_px
        # The first core of a moved plan is shorter, which moves every later border; tiles keep their size.
        if moved and begin == 0:
            end -= grid.half_step_px
        # A tile that reaches the slide's end needs no halo there; where it is the only one, no border is moved.
        if origin + grid.tile_px >= padded:
            end = side
        yield Span(origin, begin, min(end, side))
        begin = end


def _touched(spans: Sequence[Span], begin: int, end: int) -> range:
    """Which spans keep a pixel of [begin, end): bisection, as a large slide has hundreds of them."""
    return range(
        bisect_right(spans, begin, key=lambda span: span.end), bisect_left(spans, end, key=lambda span: span.begin)
    )
