"""The overview: the slide made small, its cells and skipped tiles drawn on it, with a scale."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor, log10
from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.extras import require
from breastseg_deploy.slide.raster import SlideRaster

Box = tuple[int, int, int, int]
"""top, left, bottom, right in pixels of the raster; half-open."""

OUTLINED_BELOW = 3.0
"""Up to this many pixels of the slide per pixel of the overview cells are outlined; beyond, they are too small for it
and each pixel is coloured by the share of it that is cells."""

_CELL_RGB, _SKIPPED_RGB = (0, 255, 80), (70, 130, 255)
_READ_PX = 2048
_LEGEND_PX, _MARGIN_PX, _LEAST_WIDTH_PX = 34, 10, 560
_FONT_SCALE = 0.45


def draw_overview(
    thumbnail: NDArray[np.uint8], raster: SlideRaster, skipped: Sequence[Box], pixel_size_um: float | None
) -> NDArray[np.uint8]:
    """The slide with its cells in green, skipped tiles hatched in blue, and a legend below; (h, w, 3) uint8.

    Args:
        thumbnail: (h, w, 3) uint8 RGB, the whole slide; larger than the raster where that was rescaled.
        raster: the slide.
        skipped: the tiles that the network did not see.
        pixel_size_um: of the raster; None leaves the scale in pixels.

    Raises:
        MachineError: OpenCV is not installed.
    """
    share = cell_share(raster, (thumbnail.shape[0], thumbnail.shape[1]))
    per_pixel = raster.size_px[0] / thumbnail.shape[0]
    drawn = _hatched(thumbnail, skipped, raster.size_px)
    drawn = _outlined(drawn, share) if per_pixel <= OUTLINED_BELOW else _coloured(drawn, share)
    return _with_legend(drawn, per_pixel, len(skipped), pixel_size_um)


def cell_share(raster: SlideRaster, size_px: tuple[int, int]) -> NDArray[np.float32]:
    """How much of each pixel of an overview of that size is cells, 0 to 1, float32; the raster is read in blocks."""
    rows, columns = (_borders(full, small) for full, small in zip(raster.size_px, size_px, strict=True))
    share = np.zeros(size_px, np.float32)
    step = max(1, int(_READ_PX * size_px[0] / raster.size_px[0]))
    for top in range(0, size_px[0], step):
        down = rows[top : top + step + 1]
        for left in range(0, size_px[1], step):
            across = columns[left : left + step + 1]
            mask = raster.mask(int(down[0]), int(across[0]), int(down[-1] - down[0]), int(across[-1] - across[0]))
            sums = np.add.reduceat(mask, down[:-1] - down[0], axis=0, dtype=np.uint32)
            sums = np.add.reduceat(sums, across[:-1] - across[0], axis=1)
            # Where the overview is larger than the raster, some of its pixels repeat the one that they lie in.
            areas = np.outer(np.maximum(np.diff(down), 1), np.maximum(np.diff(across), 1))
            share[top : top + step, left : left + step] = sums / areas
    return share


def _borders(full: int, small: int) -> NDArray[np.int64]:
    """Where the pixels of the overview begin in the raster, and the end."""
    return np.arange(small + 1, dtype=np.int64) * full // small


def _hatched(thumbnail: NDArray[np.uint8], skipped: Sequence[Box], size_px: tuple[int, int]) -> NDArray[np.uint8]:
    cv2 = require("cv2", "slides")
    drawn = thumbnail.copy()
    diagonal = np.add.outer(np.arange(drawn.shape[0]), np.arange(drawn.shape[1]))
    amount = np.where(diagonal % 8 < 2, 0.55, 0.12)
    scale = np.array([drawn.shape[0] / size_px[0], drawn.shape[1] / size_px[1]] * 2)
    for box in skipped:
        top, left, bottom, right = np.rint(np.array(box) * scale).astype(int)
        part = drawn[top:bottom, left:right]
        part[:] = _mixed(part, amount[top:bottom, left:right], _SKIPPED_RGB)
        cv2.rectangle(drawn, (int(left), int(top)), (int(right) - 1, int(bottom) - 1), _SKIPPED_RGB, 1)
    return drawn


def _outlined(drawn: NDArray[np.uint8], share: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A line on the outermost pixels of each cell."""
    cv2 = require("cv2", "slides")
    cells = np.asarray(share >= 0.5, np.uint8)
    inner = cv2.erode(cells, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    drawn[(cells > 0) & (inner == 0)] = _CELL_RGB
    return drawn


def _coloured(drawn: NDArray[np.uint8], share: NDArray[np.float32]) -> NDArray[np.uint8]:
    # The square root shows a lone cell of a few per cent of a pixel.
    return _mixed(drawn, 0.55 * np.sqrt(share), _CELL_RGB)


def _mixed(image: NDArray[np.uint8], amount: NDArray[Any], colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    amount = amount[:, :, None]
    return np.asarray(np.rint(image * (1 - amount) + np.array(colour) * amount), np.uint8)


def _with_legend(
    drawn: NDArray[np.uint8], per_pixel: float, skipped: int, pixel_size_um: float | None
) -> NDArray[np.uint8]:
    cv2 = require("cv2", "slides")
    height, width = drawn.shape[0], max(drawn.shape[1], _LEAST_WIDTH_PX)
    page = np.full((height + _LEGEND_PX, width, 3), 255, np.uint8)
    page[:height, : drawn.shape[1]] = drawn
    unit_px = per_pixel if pixel_size_um is None else per_pixel * pixel_size_um
    length = round_length(unit_px * min(160, drawn.shape[1]))
    middle, at = height + _LEGEND_PX // 2, _MARGIN_PX
    end = at + max(1, round(length / unit_px))
    cv2.rectangle(page, (at, middle - 2), (end, middle + 2), (0, 0, 0), -1)
    words = [(f"{length:g} {'px' if pixel_size_um is None else 'um'}", None), ("cells", _CELL_RGB)]
    words.append((f"skipped: {skipped} tile{'' if skipped == 1 else 's'}", _SKIPPED_RGB))
    at = end + _MARGIN_PX
    for text, colour in words:
        if colour is not None:
            cv2.rectangle(page, (at, middle - 6), (at + 12, middle + 6), colour, -1)
            at += 12 + _MARGIN_PX // 2
        cv2.putText(page, text, (at, middle + 5), cv2.FONT_HERSHEY_SIMPLEX, _FONT_SCALE, (0, 0, 0), 1, cv2.LINE_AA)
        at += cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, _FONT_SCALE, 1)[0][0] + 2 * _MARGIN_PX
    return page


def round_length(most: float) -> float:
    """The largest of 1, 2, 5, 10, 20, 50 and so on that is no longer than `most`."""
    power = 10.0 ** floor(log10(most))
    return max(factor * power for factor in (1, 2, 5) if factor * power <= most)
