"""Stabilised validation, paper section III F: a moving average of the score, and epochs too odd to be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

EMA_ALPHA = 0.9
RECENT_EPOCHS = 10
"""How many validations before this one say how far scores usually lie from the average."""

MIN_RECENT_EPOCHS = 5
"""With fewer, nothing is called an outlier: there is no spread to compare with."""

OUTLIER_DEVIATIONS = 3.0
MAD_TO_SD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""

MIN_SD = 0.002
"""Scores closer together than this are equal; without it, a run that stands still would make outliers of noise."""


@dataclass(frozen=True)
class StabilisedScore:
    """A validation score beside its history.

    Attributes:
        score: as measured.
        ema: paper eq. (6), alpha 0.9, started at the first score.
        outlier: over 3 robust standard deviations from the average of the epochs before it.
    """

    score: float
    ema: float
    outlier: bool


def stabilised(scores: Sequence[float]) -> list[StabilisedScore]:
    """Average the scores of a run in their order, and flag outliers.

    The robust standard deviation is 1.4826 times the median distance of recent scores from the average before them. A
    run that improves steadily keeps ahead of its average by a steady distance, so its progress is no outlier.

    Source: the paper, eq. (6); the outlier rule is ours (docs/decisions/training.md).
    """
    history: list[StabilisedScore] = []
    distances: list[float] = []
    for score in scores:
        before = history[-1].ema if history else score
        distance = abs(score - before)
        recent = distances[-RECENT_EPOCHS:]
        sd = max(MIN_SD, MAD_TO_SD * float(np.median(recent))) if len(recent) >= MIN_RECENT_EPOCHS else np.inf
        history.append(
            StabilisedScore(
                score=score,
                ema=EMA_ALPHA * before + (1 - EMA_ALPHA) * score,
                outlier=bool(distance > OUTLIER_DEVIATIONS * sd),
            )
        )
        if len(history) > 1:
            distances.append(distance)
    return history


def best_epoch(history: Sequence[StabilisedScore]) -> int:
    """Position of the best score that is no outlier, the earliest of equals; the first epoch is never an outlier."""
    return max((i for i, epoch in enumerate(history) if not epoch.outlier), key=lambda i: history[i].score)
