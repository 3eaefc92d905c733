"""The training curves of the paper's Fig. 2 (loss, Dice with the 94 and 95 % lines, IoU), and runs side by side."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import TABLEAU_COLORS
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

TARGET_LINES = (0.94, 0.95)

_STYLES = cycler(marker=[".", "x", "^"], linestyle=["-", "--", ":"]) * cycler(color=TABLEAU_COLORS)
"""Of runs side by side: more of them than there are colours."""

_PANELS = {
    "Loss": {"train_loss": "training", "val_loss": "validation"},
    "Dice": {"val_dice_with_cells": "frames with cells", "val_dice": "all frames", "val_dice_ema": "all, averaged"},
    "IoU": {"val_iou_with_cells": "frames with cells"},
}


def curves_png(rows: Sequence[Mapping[str, float]]) -> bytes:
    """The curves of a run as a PNG picture.

    Args:
        rows: of `metrics.csv`, at least one; outliers are ringed.
    """
    figure = Figure(figsize=(13, 4), layout="constrained")
    epochs = [row["epoch"] for row in rows]
    for axes, (title, lines) in zip(figure.subplots(1, len(_PANELS)), _PANELS.items(), strict=True):
        for column, label in lines.items():
            if column in rows[0]:  # a validation without cells has no Dice over frames with cells
                axes.plot(epochs, [row[column] for row in rows], marker=".", label=label)
        if title == "Dice":
            _draw_targets(axes)
            _ring_outliers(axes, rows)
        _finish(axes, title)
    return _png(figure)


def comparison_png(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> bytes:
    """Validation Dice of several runs in one PNG picture, as the paper's stability analysis asks for (section IV B).

    Args:
        runs: rows of each run's `metrics.csv` by the run's name; outliers are ringed.
    """
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    axes.set_prop_cycle(_STYLES)
    for name, rows in runs.items():
        axes.plot([row["epoch"] for row in rows], [row["val_dice"] for row in rows], label=name)
        _ring_outliers(axes, rows)
    _draw_targets(axes)
    _finish(axes, "Validation Dice over all frames")
    return _png(figure)


def _draw_targets(axes: Axes) -> None:
    for height in TARGET_LINES:
        axes.axhline(height, color="0.5", linestyle="--", linewidth=1)


def _ring_outliers(axes: Axes, rows: Sequence[Mapping[str, float]]) -> None:
    outliers = [row for row in rows if row["outlier"]]
    axes.plot(
        [row["epoch"] for row in outliers],
        [row["val_dice"] for row in outliers],
        linestyle="none",
        marker="o",
        markersize=10,
        markerfacecolor="none",
        color="tab:red",
    )


def _finish(axes: Axes, title: str) -> None:
    axes.set(title=title, xlabel="epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    axes.legend()


def _png(figure: Figure) -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    return picture.getvalue()
