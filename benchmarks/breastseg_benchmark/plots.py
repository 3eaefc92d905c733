"""The report's plots of a run, as figures with captions; a plot that has nothing to show is an empty string."""

from __future__ import annotations

from html import escape

from breastseg_benchmark.results import Distribution, Growth, Results, Row
from breastseg_benchmark.svg import Bar, Series, Strip, bar_plot, line_plot, strip_plot

_Point = tuple[float, float]


def _figure(caption: str, svg: str) -> str:
    return f"<figure><figcaption>{escape(caption)}</figcaption>{svg}</figure>"


def _measured(results: Results) -> list[tuple[Row, Distribution]]:
    return [(row, row.latency) for row in results.rows if row.latency is not None]


def latency_plot(results: Results) -> str:
    """Every call of every contestant."""
    strips = [
        Strip(
            row.name,
            [1000 * seconds for seconds in latency.seconds],
            [("p50", 1000 * latency.p50_s), ("p95", 1000 * latency.p95_s), ("p99", 1000 * latency.p99_s)],
        )
        for row, latency in _measured(results)
    ]
    return _figure("Every call", strip_plot("latency by contestant", "milliseconds", strips)) if strips else ""


def peer_plot(results: Results) -> str:
    """Everybody's time as a multiple of the runtime's."""
    bars = [
        Bar(row.name, [("time", row.ratio_to_runtime.median)], f"{row.ratio_to_runtime.median:.2f}")
        for row in results.rows
        if row.ratio_to_runtime is not None and row.name != results.runtime
    ]
    if not bars:
        return ""
    label = "time as a multiple of the runtime's"
    return _figure("Against the runtime (the line at 1)", bar_plot(label, label, bars, line_at=1.0))


def stage_plot(results: Results) -> str:
    """Where each backend's time goes."""
    bars = [
        Bar(row.name, [(stage, 1000 * seconds) for stage, seconds in row.stages_s.items() if stage != "total"])
        for row in results.rows
        if row.stages_s
    ]
    return _figure("Where the time goes", bar_plot("stages by backend", "milliseconds", bars)) if bars else ""


def growth_plots(growth: Growth) -> str:
    """All of them, side by side where the page is wide enough."""
    plots = _batch_plots(growth) + _size_plots(growth) + _memory_plot(growth)
    return f'<div class="plots">{"".join(plots)}</div>' if plots else ""


def _batch_plots(growth: Growth) -> list[str]:
    """Time and memory against the batch."""
    if not growth.batches:
        return []
    per_frame = [(float(one.batch), 1000 * one.latency.p50_s / one.batch) for one in growth.batches]
    peaks = [(float(one.batch), one.resident_peak_bytes / 1e6) for one in growth.batches if one.resident_peak_bytes]
    return _time_and_memory("batch", "batch", per_frame, peaks)


def _size_plots(growth: Growth) -> list[str]:
    """Time and memory against the frame's side; nothing with fewer than two sizes."""
    if len(growth.sizes) < 2:
        return []
    times = [(float(one.size_px[1]), 1000 * one.latency.p50_s) for one in growth.sizes]
    peaks = [(float(one.size_px[1]), one.resident_peak_bytes / 1e6) for one in growth.sizes if one.resident_peak_bytes]
    return _time_and_memory("frame size", "side of the frame, px", times, peaks)


def _time_and_memory(against: str, label: str, times: list[_Point], peaks: list[_Point]) -> list[str]:
    marks = [x for x, _ in times]
    time = line_plot(f"time against {against}", label, "ms per frame", [Series("", times)], marks)
    plots = [_figure(f"Time against {against}", time)]
    if peaks:
        memory = line_plot(f"memory against {against}", label, "resident peak, MB", [Series("", peaks)], marks)
        plots.append(_figure(f"Memory against {against}", memory))
    return plots


def _memory_plot(growth: Growth) -> list[str]:
    """Resident memory over frames."""
    if growth.memory is None:
        return []
    resident = growth.memory.resident_bytes
    step = growth.memory.frames / max(1, len(resident) - 1)
    points = [(step * number, bytes_ / 1e6) for number, bytes_ in enumerate(resident)]
    return [_figure("Memory over frames", line_plot("resident memory", "frames", "resident, MB", [Series("", points)]))]
