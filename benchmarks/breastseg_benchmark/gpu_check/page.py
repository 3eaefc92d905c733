"""What a check leaves: one JSON object, and one page in Markdown, as docs/RESULTS.md quotes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from breastseg_benchmark.gpu_check.step import Finding
from breastseg_deploy.storage import write_whole


def write_report(output: Path, found: Mapping[str, Finding], date: str) -> dict[str, Any]:
    """Write gpu-check.json and gpu-check.md into a folder, in the place of older ones; returns the JSON object.

    Raises:
        OutputError: a file cannot be written.
    """
    result = {"date": date, "steps": {name: finding.as_json() for name, finding in found.items()}}
    write_whole(output / "gpu-check.json", json.dumps(result, indent=1, allow_nan=False).encode())
    write_whole(output / "gpu-check.md", page(found, date).encode())
    return result


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
