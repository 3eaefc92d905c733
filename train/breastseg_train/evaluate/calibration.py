"""Whether probabilities mean what they say, and what another threshold would bring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.errors import DataError

LEVELS = 100
"""Probabilities are counted in hundredths."""

BINS = 20
"""Of the reliability diagram and the expected calibration error."""


@dataclass(frozen=True)
class ProbabilityCounts:
    """The pixels of one frame by their probability.

    Attributes:
        background: (LEVELS,) int64, pixels that are no cell in truth; level k holds k / LEVELS <= p < (k + 1) / LEVELS.
        cell: (LEVELS,) int64, likewise those of cells.
        sums: (LEVELS,) float64, sum of the probabilities of both.
    """

    background: NDArray[np.int64]
    cell: NDArray[np.int64]
    sums: NDArray[np.float64]


def probability_counts(probability: NDArray[np.float32], truth: NDArray[np.uint8]) -> ProbabilityCounts:
    """Count an (H, W) float32 map of probabilities by its (H, W) truth, 0 and 1."""
    exact = probability.astype(np.float64).ravel()
    level = np.minimum((exact * LEVELS).astype(np.int64), LEVELS - 1)
    is_cell = truth.ravel() > 0
    return ProbabilityCounts(
        np.bincount(level[~is_cell], minlength=LEVELS),
        np.bincount(level[is_cell], minlength=LEVELS),
        np.bincount(level, weights=exact, minlength=LEVELS).astype(np.float64),
    )


def calibration(frames: Sequence[ProbabilityCounts]) -> dict[str, Any]:
    """How far probabilities lie from the share of cells among their pixels.

    Args:
        frames: at least one.

    Returns:
        JSON values: `ece`, the expected calibration error over all pixels; `ece_disputed`, over those with a
        probability of at least 0.05 (most pixels are background that nobody disputes), None without any; `bins` of the
        reliability diagram with `pixels`, and their mean `probability` and `share` of cells, None in an empty bin.

    Raises:
        DataError: there is no frame.

    Source: Guo et al. 2017, arXiv 1706.04599, with 20 bins of equal width.
    """
    if not frames:
        raise DataError("calibration is measured on frames, got none; name a split that has some")
    cell, pixels, sums = (
        np.asarray(values).sum(axis=0).reshape(BINS, -1).sum(axis=1)
        for values in (
            [frame.cell for frame in frames],
            [frame.cell + frame.background for frame in frames],
            [frame.sums for frame in frames],
        )
    )
    gap = np.abs(sums - cell)
    disputed = pixels[1:].sum()
    return {
        "ece": float(gap.sum() / pixels.sum()),
        "ece_disputed": float(gap[1:].sum() / disputed) if disputed else None,
        "bins": [
            {
                "pixels": int(count),
                "probability": float(total / count) if count else None,
                "share": float(found / count) if count else None,
            }
            for count, total, found in zip(pixels, sums, cell, strict=True)
        ],
    }


def dice_by_threshold(frames: Sequence[ProbabilityCounts]) -> list[dict[str, float]]:
    """Mean Dice over the frames with cells at every hundredth from 0.01 to 0.99; empty where no frame has cells."""
    with_cells = [frame for frame in frames if frame.cell.any()]
    if not with_cells:
        return []
    scores = []
    for frame in with_cells:
        hits = np.cumsum(frame.cell[::-1])[::-1]  # of level k: pixels with p >= k / LEVELS
        predicted = hits + np.cumsum(frame.background[::-1])[::-1]
        scores.append(2 * hits / (predicted + frame.cell.sum()))
    means = np.mean(scores, axis=0)
    return [{"threshold": level / LEVELS, "dice": float(means[level])} for level in range(1, LEVELS)]
