"""Small plots as inline SVG: no script, no file beside it. Colours are classes that the page's style sheet gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 420
"""Of every plot, in its own units; a page may scale it."""

SERIES_COLOURS = 6
"""Classes s0 to s5."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 26, 42
_HALF_CHARACTER = 4
"""Half the width of a digit, generously."""
_HEIGHT = 230
_STRIP, _BAR = 46, 44
_STEPS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class Series:
    """A line: name, and points (x, y)."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Strip:
    """One row of samples: name, samples, and marks by name on the same axis."""

    name: str
    samples: Sequence[float]
    marks: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Bar:
    """One bar: name, and its parts by name, laid end to end."""

    name: str
    parts: Sequence[tuple[str, float]]
    note: str = ""


def line_plot(title: str, x_label: str, y_label: str, series: Sequence[Series], x_ticks: Sequence[float] = ()) -> str:
    """Lines with their points, both axes from 0 or below.

    Args:
        title: for those who cannot see it.
        x_label, y_label: with units.
        series: at least one point in all.
        x_ticks: where the x axis is named; round numbers by default.
    """
    points = [point for one in series for point in one.points]
    across = list(x_ticks) or ticks(0, max(x for x, _ in points))
    up = ticks(0, max(y for _, y in points))
    x_end, y_end = max(across[-1], *(x for x, _ in points)), up[-1]
    span, rise = WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return _LEFT + span * x / (x_end or 1), _TOP + rise * (1 - y / (y_end or 1))

    body = []
    for y in up:
        level = place(0, y)[1]
        body.append(_line(_LEFT, level, WIDTH - _RIGHT, level, "grid"))
        body.append(_text(_LEFT - 6, level + 4, _number(y), "end"))
    for x in across:
        words = _number(x)
        inside = min(place(x, 0)[0], WIDTH - _HALF_CHARACTER * len(words))  # the last one would stick out
        body.append(_text(inside, _HEIGHT - _BOTTOM + 17, words, "middle"))
    body.append(_line(_LEFT, _HEIGHT - _BOTTOM, WIDTH - _RIGHT, _HEIGHT - _BOTTOM, "axis"))
    body.append(_text(_LEFT + span / 2, _HEIGHT - 6, x_label, "middle"))
    body.append(_text(0, 13, y_label, "start"))
    for number, one in enumerate(series):
        placed = [place(x, y) for x, y in one.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        body.append(f'<polyline class="s{number % SERIES_COLOURS}" points="{path}"/>')
        body += [_dot(x, y, 3, number) for x, y in placed] if len(placed) <= 60 else []
    legend, extra = _legend([one.name for one in series], _HEIGHT) if len(series) > 1 else ([], 0)
    return _svg(title, _HEIGHT + extra, body + legend)


def strip_plot(title: str, x_label: str, strips: Sequence[Strip]) -> str:
    """Every sample as a dot, a row for each strip, with marks through the row; the axis begins at 0."""
    across = ticks(0, max(max(one.samples) for one in strips))
    height = _TOP + _STRIP * len(strips) + _BOTTOM
    span, left = WIDTH - 2 * _RIGHT, _RIGHT

    def place(x: float) -> float:
        return left + span * x / (across[-1] or 1)

    bottom = height - _BOTTOM
    body = [_line(place(x), _TOP - 8, place(x), bottom, "grid") for x in across]
    body += [_text(place(x), bottom + 17, _number(x), _anchor(x, across)) for x in across]
    body.append(_text(WIDTH / 2, height - 6, x_label, "middle"))
    for number, one in enumerate(strips):
        top = _TOP + _STRIP * number
        body.append(_text(left, top + 8, one.name, "start"))
        body += [_dot(place(sample), top + 24, 3, number, "sample") for sample in one.samples]
        body += [_line(place(x), top + 15, place(x), top + 33, "mark", f"{name}: {x:.4g}") for name, x in one.marks]
    return _svg(title, height, body)


def bar_plot(title: str, x_label: str, bars: Sequence[Bar], line_at: float | None = None) -> str:
    """Bars from 0 to the right, their parts end to end in one colour by name.

    Args:
        title: for those who cannot see it.
        x_label: with its unit.
        bars: from top to bottom.
        line_at: where a line runs across, for comparison.
    """
    names = list(dict.fromkeys(name for one in bars for name, _ in one.parts))
    longest = max(sum(length for _, length in one.parts) for one in bars)
    across = ticks(0, max(longest, line_at or 0))
    height = _TOP + _BAR * len(bars) + _BOTTOM
    span, left, bottom = WIDTH - 2 * _RIGHT, _RIGHT, height - _BOTTOM

    def place(x: float) -> float:
        return left + span * x / (across[-1] or 1)

    body = [_line(place(x), _TOP - 8, place(x), bottom, "grid") for x in across]
    body += [_text(place(x), bottom + 17, _number(x), _anchor(x, across)) for x in across]
    body.append(_text(WIDTH / 2, height - 6, x_label, "middle"))
    for number, one in enumerate(bars):
        top, start = _TOP + _BAR * number, 0.0
        body.append(_text(left, top + 8, one.name, "start"))
        body.append(_text(WIDTH - _RIGHT, top + 8, one.note, "end"))
        for name, length in one.parts:
            colour = names.index(name) % SERIES_COLOURS
            words = f"<title>{escape(name)}: {length:.4g}</title>"
            width = place(start + length) - place(start)
            body.append(
                f'<rect class="s{colour}" x="{place(start):.1f}" y="{top + 14}" width="{width:.1f}" height="16">'
                f"{words}</rect>"
            )
            start += length
    if line_at is not None:
        body.append(_line(place(line_at), _TOP - 8, place(line_at), bottom, "mark"))
    legend, extra = _legend(names, height) if len(names) > 1 else ([], 0)
    return _svg(title, height + extra, body + legend)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from `low` on, the last one at or beyond `high`; at most `most` steps."""
    reach = high - low
    if not reach > 0:
        return [low, low + 1]
    power = 10.0 ** math.floor(math.log10(reach / most))
    step = next(power * factor for factor in _STEPS if power * factor * most >= reach * (1 - 1e-9))
    count = math.ceil((reach - 1e-9 * reach) / step)
    return [low + step * number for number in range(count + 1)]


def _svg(title: str, height: float, body: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(title)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(body)}</svg>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str, words: str = "") -> str:
    inside = f"<title>{escape(words)}</title>" if words else ""
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}">{inside}</line>'


def _dot(x: float, y: float, radius: float, series: int, kind: str = "point") -> str:
    return f'<circle class="{kind} s{series % SERIES_COLOURS}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"/>'


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _anchor(x: float, across: Sequence[float]) -> str:
    return "start" if x == across[0] else "end" if x == across[-1] else "middle"


def _legend(names: Sequence[str], top: float) -> tuple[list[str], float]:
    """Two names to a line, and the height that they take."""
    body = []
    for number, name in enumerate(names):
        x, y = _RIGHT + (number % 2) * WIDTH / 2, top + 16 + 20 * (number // 2)
        body.append(f'<rect class="s{number % SERIES_COLOURS}" x="{x:.1f}" y="{y - 10:.1f}" width="11" height="11"/>')
        body.append(_text(x + 17, y, name, "start"))
    return body, 8 + 20 * -(-len(names) // 2)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:g}"
