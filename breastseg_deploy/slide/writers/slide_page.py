"""The page of a slide: pictures, charts and all of its result in one HTML file that needs no other."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.slide.writers.charts import density, density_png, histogram_svg, seconds_svg
from breastseg_deploy.storage import write_whole

_TEMPLATE = Path(__file__).with_suffix(".html")
_TABLES = ("certificate", "cells", "skipped", "provenance")
_SHOWN = (*_TABLES, "seconds", "mpx_per_s")
_MOST_ITEMS = 12
_UNITS = {"ppm": "ppm", "um": "µm", "um2": "µm²", "px": "px", "s": "s", "mb": "MB", "bytes": "bytes"}


def write_slide_page(
    path: Path,
    result: Mapping[str, Any],
    *,
    cells: NDArray[np.void],
    size_px: tuple[int, int],
    pixel_size_um: float | None,
    pictures: Mapping[str, bytes],
) -> None:
    """Write the page.

    Args:
        path: of the file; its folder's name is the page's title.
        result: the content of result.json. Whatever it holds is shown; what it lacks is omitted.
        cells: of CELL_DTYPE, for the charts.
        size_px: (H, W) of the slide.
        pixel_size_um: None keeps the charts in pixels.
        pictures: PNG files by their captions, in the order of the page.

    Raises:
        OutputError: no permission, no space.
        MachineError: OpenCV is not installed.
    """
    certificate = result.get("certificate") or {}
    filled = Template(_TEMPLATE.read_text("utf-8")).substitute(
        name=escape(path.resolve().parent.name),
        verdict=_verdict(certificate),
        figures="".join(_figures(result, certificate, len(cells), size_px)),
        pictures="".join(_picture(caption, png) for caption, png in pictures.items()),
        density=_density(cells, size_px, pixel_size_um),
        histogram=_histogram(cells, pixel_size_um),
        seconds=seconds_svg(result.get("seconds") or {}),
        rest=_table({key: value for key, value in result.items() if key not in _SHOWN}, "<h2>Other</h2>"),
        **{key: _table(result.get(key) or {}) for key in _TABLES},
    )
    write_whole(path, filled.encode("utf-8"))


def _verdict(certificate: Mapping[str, Any]) -> str:
    if "passed" not in certificate:
        return ""
    kind, word = ("passed", "passed") if certificate["passed"] else ("failed", "FAILED")
    limit = f", limit {_text('limit_ppm', certificate['limit_ppm'])}" if "limit_ppm" in certificate else ""
    return f'<span class="verdict {kind}">{word}</span> &nbsp;certificate{limit}'


def _figures(
    result: Mapping[str, Any], certificate: Mapping[str, Any], cells: int, size_px: tuple[int, int]
) -> Iterator[str]:
    told = {"cells": f"{cells:,}", "columns x rows": f"{size_px[1]:,} x {size_px[0]:,} px"}
    for key, name in (("flipped_ppm", "flipped by a moved grid"), ("dice", "Dice against the moved grid")):
        if key in certificate:
            told[name] = _text(key, certificate[key])
    if result.get("mpx_per_s") is not None:
        told["rate"] = f"{result['mpx_per_s']:.3g} Mpx/s"
    for name, text in told.items():
        yield f"<div><b>{escape(text)}</b><span>{escape(name)}</span></div>"


def _picture(caption: str, png: bytes, kind: str = "") -> str:
    source = b64encode(png).decode()
    words = escape(caption)
    shown = f'<img alt="{words}" src="data:image/png;base64,{source}"><figcaption>{words}</figcaption>'
    return f'<figure class="{kind}">{shown}</figure>'


def _density(cells: NDArray[np.void], size_px: tuple[int, int], pixel_size_um: float | None) -> str:
    fields = density(cells, size_px, pixel_size_um)
    unit = "megapixel" if pixel_size_um is None else "mm²"
    ends = f'<div class="ramp"></div><div class="ends"><span>0</span><span>{fields.max():,.0f} per {unit}</span></div>'
    return _picture("each field coloured by its cells per area", density_png(fields), "density") + ends


def _histogram(cells: NDArray[np.void], pixel_size_um: float | None) -> str:
    unit = "px" if pixel_size_um is None else "µm²"
    return histogram_svg(cells["area_px"] * (1.0 if pixel_size_um is None else pixel_size_um**2), unit)


def _table(values: Any, heading: str = "") -> str:
    """Every value with the names that lead to it; nothing at all, the heading either, where there is none."""
    rows = [(" / ".join(names), text) for names, text in _rows(values if isinstance(values, Mapping) else {"": values})]
    if not rows:
        return ""
    cells = "".join(f"<tr><td>{escape(name)}</td><td>{escape(text)}</td></tr>" for name, text in rows)
    return f'{heading}<div class="scroll"><table><tbody>{cells}</tbody></table></div>'


def _rows(values: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _rows(value, (*names, str(key)))
    else:
        *above, name = names
        if _unit(name, values):  # it stands behind the value
            name = name.rpartition("_")[0]
        yield tuple(word.replace("_", " ") for word in (*above, name)), _text(names[-1], values)


def _unit(name: str, value: Any) -> str:
    """The unit that a name ends in; none for what is not a number."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return _UNITS.get(name.rpartition("_")[2], "") if is_number and "_" in name else ""


def _text(name: str, value: Any) -> str:
    if value is None:
        return "not known"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        number = f"{value:,}" if isinstance(value, int) else f"{value:.6g}"
        return f"{number} {_unit(name, value)}".rstrip()
    if isinstance(value, list | tuple):
        more = f" and {len(value) - _MOST_ITEMS:,} more" if len(value) > _MOST_ITEMS else ""
        return "; ".join(_item(item) for item in value[:_MOST_ITEMS]) + more or "none"
    return str(value)


def _item(value: Any) -> str:
    return f"({', '.join(map(str, value))})" if isinstance(value, list | tuple) else _text("", value)
