"""Summaries of evaluations as rows of a table, the same in every place that shows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

COLUMNS = (
    "Dice, frames with cells",
    "Dice, all frames",
    "empty frames with a false positive",
    "small structures found",
    "surface Dice",
    "F1 of cells at 0.5",
    "close pairs merged",
)


def cells(found: Mapping[str, Any]) -> tuple[str, ...]:
    """One cell for each of `COLUMNS`, of a summary of at least one frame; Dice with its 95 % interval."""
    empty, small = found["empty"], found["small_structures"]
    dice, surface = found["with_cells"]["dice"], found["with_cells"]["surface_dice"]
    numbered = found.get("cells") or {"f1": None, "merged": None}
    return (
        "-" if dice is None else "{:.3f} ({:.3f} to {:.3f})".format(dice["mean"], *dice["ci95"]),
        f"{found['all']['dice']['mean']:.3f}",
        f"{round((empty['false_positive_rate'] or 0) * empty['frames'])} of {empty['frames']}",
        f"{small['found']} of {small['count']}",
        "-" if surface is None else f"{surface['mean']:.3f}",
        "-" if numbered["f1"] is None else f"{numbered['f1']:.3f}",
        "-" if numbered["merged"] is None else f"{numbered['merged']:.0%}",
    )


def rows_of(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The rows of an evaluation's result: all frames, then each source; the model, then what it has to beat.

    Args:
        result: see `comparison.compare`.

    Returns:
        Per row: frames, what was measured, and `cells`.
    """
    groups: dict[str, Mapping[str, Any]] = {"all": result["compared"], **result["sources"]}
    return [
        (f"{source or 'no source'} ({found['frames']})", name, *cells(found))
        for source, group in groups.items()
        for name, found in group.items()
    ]


def aligned(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table for the terminal, its columns as wide as they need to be."""
    lines = [header, *rows]
    widths = [max(len(line[at]) for line in lines) for at in range(len(header))]
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in padded)
