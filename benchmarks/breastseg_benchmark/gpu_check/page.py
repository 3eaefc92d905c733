"""The page of a check, in Markdown, as docs/RESULTS.md quotes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from breastseg_benchmark.gpu_check.step import Finding


def page(found: Mapping[str, Finding], date: str) -> str:
    """The verdicts as a table, then the figures of each step that has any.

    Args:
        found: by step.
        date: of the check.
    """
    machine = found.get("versions")
    lines = [f"# GPU check, {date}", "", *([machine.words, ""] if machine else [])]
    lines += ["| step | verdict | seconds | finding |", "|---|---|---|---|"]
    lines += [f"| {name} | {one.verdict} | {one.seconds:.1f} | {_cell(one.words)} |" for name, one in found.items()]
    for name, one in found.items():
        if one.figures:
            lines += ["", f"## {name}", "", "| figure | value |", "|---|---|"]
            lines += [f"| {_cell(figure)} | {_cell(_value(value))} |" for figure, value in one.figures.items()]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_value(one)}" for name, one in value.items())
    return ", ".join(map(_value, value)) if isinstance(value, (list, tuple)) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
