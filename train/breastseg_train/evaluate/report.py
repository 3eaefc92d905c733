"""An evaluation as one HTML page that needs nothing beside it."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from matplotlib.figure import Figure

from breastseg_train.evaluate.table import COLUMNS, rows_of

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;display:block;overflow-x:auto}td,th{padding:.3rem .7rem;text-align:left;"
    "border-bottom:1px solid #ddd;white-space:nowrap}img{max-width:100%}"
)


def report_html(title: str, facts: Mapping[str, str], result: Mapping[str, Any], panel: bytes | None) -> str:
    """The page: facts, the table by source, calibration, Dice by threshold, and frames.

    Args:
        title: what was measured.
        facts: how, by name.
        result: see `comparison.compare`.
        panel: PNG picture of some frames, where there are frames to show.
    """
    calibration = result["calibration"]
    header = ("frames", "", *COLUMNS)
    disputed = calibration["ece_disputed"]
    return "\n".join(
        [
            f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(title)}</title>",
            f"<meta name='viewport' content='width=device-width'><style>{_STYLE}</style><h1>{escape(title)}</h1>",
            _table(("", ""), list(facts.items())),
            "<h2>Figures</h2><p>95 % bootstrap intervals over frames. An empty pair counts 1 in Dice over all frames. "
            "Otsu: after a Gaussian blur of 1 px.</p>",
            _table(header, rows_of(result)),
            "<h2>Probabilities</h2>",
            f"<p>Expected calibration error {calibration['ece']:.4f} over all pixels"
            + ("" if disputed is None else f", {disputed:.4f} over those with a probability of 0.05 and more")
            + ".</p>",
            _picture("reliability diagram and Dice by threshold", _probability_png(result)),
            "" if panel is None else "<h2>Frames</h2>" + _picture("best, median and worst frame", panel),
            "</html>",
        ]
    )


def _probability_png(result: Mapping[str, Any]) -> bytes:
    """Reliability diagram and, where frames have cells, Dice by threshold."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    bins = [one for one in result["calibration"]["bins"] if one["pixels"]]
    left.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    left.plot([one["probability"] for one in bins], [one["share"] for one in bins], marker="o")
    left.set(title="Reliability", xlabel="probability", ylabel="share of cell pixels", xlim=(0, 1), ylim=(0, 1))
    curve = result["dice_by_threshold"]
    right.plot([one["threshold"] for one in curve], [one["dice"] for one in curve])
    right.set(title="Dice, frames with cells", xlabel="threshold", ylabel="mean Dice", xlim=(0, 1))
    right.grid(alpha=0.3)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=90)
    return picture.getvalue()


def _picture(called: str, png: bytes) -> str:
    return f"<img alt='{escape(called)}' src='data:image/png;base64,{base64.b64encode(png).decode()}'>"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"<tr>{''.join(f'<th>{escape(cell)}</th>' for cell in header)}</tr>"] if any(header) else []
    lines += [f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows]
    return f"<table>{''.join(lines)}</table>"
