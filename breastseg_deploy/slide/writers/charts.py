"""Charts of a slide's page, as SVG and a small PNG: where cells lie, how large they are, how long each stage took."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.extras import require
from breastseg_deploy.io.images import png_bytes
from breastseg_deploy.slide.writers.overview import round_length

DENSITY_SIDE = 48
"""Fields of the density map along the slide's longer side."""
BINS = 40
"""Of the histogram. The last one holds all cells above the 99.5th percentile too: a few giants would hide the rest."""

_UM2_PER_MM2, _PX_PER_MPX = 1e6, 1e6
_WIDTH, _PLOT_PX, _ROW_PX = 560, 180, 22


def density(cells: NDArray[np.void], size_px: tuple[int, int], pixel_size_um: float | None) -> NDArray[np.float64]:
    """Cells per mm2, or per megapixel where the pixel size is not known, in square fields; (rows, columns)."""
    side = max(1, -(-max(size_px) // DENSITY_SIDE))
    rows, columns = (-(-length // side) for length in size_px)
    # A centroid counts from a pixel's centre: the field that it lies in begins half a pixel earlier.
    y, x = ((cells[name] + 0.5).astype(np.int64) // side for name in ("centroid_y_px", "centroid_x_px"))
    count = np.bincount(y * columns + x, minlength=rows * columns).reshape(rows, columns)
    heights, widths = (np.minimum(side, length - np.arange(0, length, side)) for length in size_px)
    areas_px = np.outer(heights, widths)
    unit_px = _PX_PER_MPX if pixel_size_um is None else _UM2_PER_MM2 / pixel_size_um**2
    return np.asarray(count / areas_px * unit_px, np.float64)


def density_png(density: NDArray[np.float64]) -> bytes:
    """A field for each pixel, dark where there are no cells, light at the highest density."""
    cv2 = require("cv2", "slides")
    scaled = np.rint(density / max(density.max(), 1e-12) * 255).astype(np.uint8)
    coloured: NDArray[np.uint8] = cv2.applyColorMap(scaled, cv2.COLORMAP_VIRIDIS)[:, :, ::-1]
    return png_bytes(np.ascontiguousarray(coloured))


def histogram_svg(values: NDArray[np.float64], unit: str) -> str:
    """How many cells there are of each area."""
    if len(values) == 0:
        return "<p>No cells.</p>"
    most = max(float(np.percentile(values, 99.5)), 1e-12)
    count, _ = np.histogram(np.minimum(values, most), BINS, (0, most))
    step = (_WIDTH - 50) / BINS
    bars = "".join(
        f'<rect x="{45 + number * step:.1f}" y="{_PLOT_PX - height:.1f}" width="{step - 1:.1f}" height="{height:.1f}"/>'
        for number, height in enumerate(count / count.max() * (_PLOT_PX - 15))
    )
    tick = round_length(most / 4)
    ticks = "".join(
        f'<text x="{45 + at / most * (_WIDTH - 50):.1f}" y="{_PLOT_PX + 15}" text-anchor="middle">{at:g}</text>'
        for at in np.arange(0, most, tick)
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_PLOT_PX + 40}" role="img" aria-label="histogram of areas">'
        f'<g class="bars">{bars}</g><path class="axis" d="M45 5V{_PLOT_PX}H{_WIDTH - 5}"/>{ticks}'
        f'<text x="40" y="20" text-anchor="end">{count.max():,}</text>'
        f'<text x="40" y="{_PLOT_PX}" text-anchor="end">0</text>'
        f'<text x="{_WIDTH - 5}" y="{_PLOT_PX + 33}" text-anchor="end">area, {escape(unit)}; the last bar: '
        f"{most:.4g} and more</text></svg>"
    )


def seconds_svg(seconds: Mapping[str, float]) -> str:
    """A bar for each stage."""
    longest = max([*seconds.values(), 1e-12])
    rows = "".join(
        f'<text x="140" y="{number * _ROW_PX + 15}" text-anchor="end">{escape(stage)}</text>'
        f'<rect x="150" y="{number * _ROW_PX + 3}" width="{value / longest * 320:.1f}" height="{_ROW_PX - 6}"/>'
        f'<text x="{155 + value / longest * 320:.1f}" y="{number * _ROW_PX + 15}">{value:.3g} s</text>'
        for number, (stage, value) in enumerate(seconds.items())
    )
    height = max(1, len(seconds)) * _ROW_PX
    return f'<svg class="bars" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="seconds by stage">{rows}</svg>'
