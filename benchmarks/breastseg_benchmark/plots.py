"""The report's plots as SVG by matplotlib: text stays text, and the same run gives the same bytes."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from breastseg_benchmark.results import BatchPoint, Distribution, Growth, Results, Row, SizePoint
from breastseg_benchmark.tables import STAGE_WORDS
from breastseg_deploy.extras import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH_IN = 5.0
_HEIGHT_IN = 3.1
_ROW_IN, _FRAME_IN, _LEGEND_IN = 0.42, 0.9, 0.6
"""Height of a plot with a row for each implementation: one row, and what stands around the rows."""

_STYLE = {
    "svg.fonttype": "none",
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.88",
    "axes.axisbelow": True,
}
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


Plot = tuple[str, str]
"""Caption and SVG."""


def plots(results: Results) -> dict[str, list[Plot]]:
    """By section of the page; a section is empty where nothing was measured for it."""
    called = [(row, row.latency) for row in results.rows if row.latency is not None]
    compared = [row for row in results.rows if row.ratio_to_runtime is not None and row.name != results.runtime]
    staged = [row for row in results.rows if row.stages_s]
    found: dict[str, list[Plot]] = {"latency": [], "peers": [], "stages": [], "growth": []}
    if called:
        found["latency"] = [_plot("Every call", partial(_latency, rows=called), _height_in(called))]
    if compared:
        caption = "Against the runtime (the line at 1)"
        found["peers"] = [_plot(caption, partial(_ratios, rows=compared), _height_in(compared))]
    if staged:
        found["stages"] = [_plot("Where the time goes", partial(_stages, rows=staged), _LEGEND_IN + _height_in(staged))]
    if results.growth is not None:
        found["growth"] = _growth(results.growth)
    return found


def _plot(caption: str, draw: Callable[[Axes], None], height_in: float = _HEIGHT_IN) -> Plot:
    """Draw one plot. Its SVG names things by a hash of them and of the caption, so no two plots of a page collide."""
    matplotlib, figures = require("matplotlib", "benchmark"), require("matplotlib.figure", "benchmark")
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": caption}):
        figure = figures.Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
        draw(figure.subplots())
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={**_NO_METADATA, "Title": caption})
    svg = text.getvalue()
    return caption, svg[svg.index("<svg") :].strip()


def _height_in(rows: Sequence[object]) -> float:
    return _ROW_IN * len(rows) + _FRAME_IN


def _latency(axes: Axes, rows: Sequence[tuple[Row, Distribution]]) -> None:
    """A dot for each call, a row for each implementation, marks at the percentiles."""
    for place, (_, latency) in enumerate(rows):
        axes.plot([1000 * one for one in latency.seconds], [place] * len(latency.seconds), "o", alpha=0.45)
        marks = [1000 * one for one in (latency.p50_s, latency.p95_s, latency.p99_s)]
        axes.plot(marks, [place] * len(marks), "|", color="black", markersize=14, markeredgewidth=1.5)
    _name_rows(axes, [row.name for row, _ in rows])
    axes.set(xlabel="milliseconds", xlim=(0, None))


def _ratios(axes: Axes, rows: Sequence[Row]) -> None:
    """Each time as a multiple of the runtime's."""
    ratios = [row.ratio_to_runtime.median for row in rows if row.ratio_to_runtime is not None]
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # the line at 1 runs through some of them
    axes.bar_label(axes.barh(range(len(rows)), ratios, height=0.55), fmt="%.2f", padding=4, bbox=behind)
    axes.axvline(1, color="black")
    _name_rows(axes, [row.name for row in rows])
    axes.set(xlabel="time / the runtime's time", xlim=(0, 1.15 * max([1.0, *ratios])))


def _stages(axes: Axes, rows: Sequence[Row]) -> None:
    """Each backend's stages end to end."""
    stages = dict.fromkeys(stage for row in rows for stage in row.stages_s if stage != "total")
    ends = [0.0] * len(rows)
    for stage in stages:
        lengths = [1000 * row.stages_s.get(stage, 0.0) for row in rows]
        axes.barh(range(len(rows)), lengths, left=ends, height=0.55, label=STAGE_WORDS.get(stage, stage))
        ends = [end + length for end, length in zip(ends, lengths, strict=True)]
    _name_rows(axes, [row.name for row in rows])
    axes.set(xlabel="milliseconds")
    axes.figure.legend(loc="outside upper center", ncols=2, frameon=False)


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    """From top to bottom."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")


def _growth(growth: Growth) -> list[Plot]:
    """Time and memory against the batch and against the frame's side, and memory over frames."""
    found: list[Plot] = []
    if growth.batches:
        milliseconds = [1000 * one.latency.p50_s / one.batch for one in growth.batches]
        found += _time_and_memory("batch", [one.batch for one in growth.batches], milliseconds, growth.batches)
    if len(growth.sizes) > 1:
        milliseconds = [1000 * one.latency.p50_s for one in growth.sizes]
        sides = [one.size_px[1] for one in growth.sizes]
        found += _time_and_memory("side of the frame, px", sides, milliseconds, growth.sizes)
    if growth.memory is not None:
        resident_mb = [one / 1e6 for one in growth.memory.resident_bytes]
        step = growth.memory.frames / max(1, len(resident_mb) - 1)
        frames = [step * number for number in range(len(resident_mb))]
        found.append(_line("Memory over frames", "frames", "resident, MB", frames, resident_mb))
    return found


def _time_and_memory(
    label: str, across: Sequence[float], milliseconds: Sequence[float], points: Sequence[BatchPoint | SizePoint]
) -> list[Plot]:
    found = [_line(f"Time against {label}", label, "ms per frame", across, milliseconds, across)]
    peaks_mb = [one.resident_peak_bytes / 1e6 for one in points if one.resident_peak_bytes is not None]
    if len(peaks_mb) == len(points):
        found.append(_line(f"Memory against {label}", label, "resident peak, MB", across, peaks_mb, across))
    return found


def _line(
    caption: str, x: str, y: str, across: Sequence[float], up: Sequence[float], ticks: Sequence[float] | None = None
) -> Plot:
    """A line with its points; both axes begin at 0. Ticks across are matplotlib's where none are given."""

    def draw(axes: Axes) -> None:
        axes.plot(across, up, marker="o", markersize=4)
        axes.set(xlabel=x, ylabel=y, xlim=(0, None), ylim=(0, 1.1 * max(up)))
        if ticks is not None:
            axes.set_xticks(ticks)

    return _plot(caption, draw)
