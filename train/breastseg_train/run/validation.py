"""Figures of a validation epoch from per-frame pixel counts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def pixel_counts(mask: Tensor, truth: Tensor) -> Tensor:
    """True positives, false positives and false negatives of each frame.

    Args:
        mask: (N, 1, H, W) bool.
        truth: (N, 1, H, W), 0 and 1.

    Returns:
        (N, 3) int64.
    """
    predicted, expected = mask.flatten(1), truth.flatten(1) > 0
    true_positive = (predicted & expected).sum(1)
    return torch.stack([true_positive, predicted.sum(1) - true_positive, expected.sum(1) - true_positive], dim=1)


THRESHOLDS = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
"""Among which a run chooses. The combined loss weighs cell pixels up, so probabilities come out too high: the best
threshold lies rather over 0.5 than under it (docs/LOG.md)."""


def best_threshold(thresholds: Sequence[float], counts: Tensor) -> int:
    """Position of the threshold with the best mean Dice over all frames; of equals, the one nearest to 0.5.

    Args:
        thresholds: T of them.
        counts: (N, T, 3), as `pixel_counts` makes them for each.
    """
    scores = [validation_figures(counts[:, at])["dice"] for at in range(len(thresholds))]
    return max(range(len(thresholds)), key=lambda at: (scores[at], -abs(thresholds[at] - 0.5)))


def validation_figures(counts: Tensor) -> dict[str, float]:
    """Mean figures over the frames of an epoch.

    Args:
        counts: (N, 3) from `pixel_counts`, all frames together, N >= 1.

    Returns:
        `dice`: over all frames, 1 for an empty pair by convention; `dice_with_cells` and `iou_with_cells`: over frames
        with cells in truth; `false_positive_rate`: share of empty frames with any predicted pixel. Figures of frames
        that do not exist are left out.
    """
    true_positive, false_positive, false_negative = counts.double().unbind(1)
    union = true_positive + false_positive + false_negative
    dice = torch.where(union > 0, 2 * true_positive / (union + true_positive), 1.0)
    with_cells = true_positive + false_negative > 0
    figures = {
        "dice": dice,
        "dice_with_cells": dice[with_cells],
        "iou_with_cells": (true_positive / union)[with_cells],
        "false_positive_rate": (false_positive[~with_cells] > 0).double(),
    }
    return {name: float(values.mean()) for name, values in figures.items() if len(values)}
