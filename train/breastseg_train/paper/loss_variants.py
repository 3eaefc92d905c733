"""Losses beside Algorithm 1: with more weight on borders, and those of the paper's ablation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from breastseg_deploy.metrics import BOUNDARY_TOLERANCE_PX
from breastseg_train.run.loss import BCE_WEIGHT, SMOOTH, combined_loss, positive_weight

BOUNDARY_FACTOR = 3.0
"""Weight of a pixel near a border in the boundary-aware cross-entropy; others have 1."""

HYBRID_DICE_WEIGHT, HYBRID_FOCAL_WEIGHT, HYBRID_BOUNDARY_WEIGHT = 0.5, 0.3, 0.2
FOCAL_GAMMA, FOCAL_ALPHA = 2.0, 0.25


def boundary_aware_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Algorithm 1 with its cross-entropy weighted 3 within 3 px of a border; a scalar, float32.

    Args and shapes as in `loss.combined_loss`. The abstract of the paper names the term and no formula: this one is
    ours (docs/decisions/training.md).
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits, truth = logits.float(), truth.float()
        extra = (BOUNDARY_FACTOR - 1) * boundary_band(truth)
        bce = functional.binary_cross_entropy_with_logits(
            logits, truth, weight=extra, pos_weight=positive_weight(truth)
        )
        return combined_loss(logits, truth) + BCE_WEIGHT * bce


def dice_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """1 - soft Dice, mean over the frames, the "standard Dice loss" of Table II; a scalar, float32.

    Args and shapes as in `loss.combined_loss`; the smoothing is Algorithm 1's, its clamps are omitted.
    """
    with torch.autocast(logits.device.type, enabled=False):
        probability, expected = torch.sigmoid(logits.float()).flatten(1), truth.float().flatten(1)
        overlap = 2 * (probability * expected).sum(1) + SMOOTH
        return 1 - (overlap / (probability.sum(1) + expected.sum(1) + SMOOTH)).mean()


def hybrid_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """0.5 Dice + 0.3 focal + 0.2 boundary, the ablation "Att-UNet + Hybrid" of Table II; a scalar, float32.

    Args and shapes as in `loss.combined_loss`. Dice is `dice_loss`, focal is Lin et al. 2017
    with gamma 2 and alpha 0.25, boundary is the mean cross-entropy within 3 px of a border, 0 where there is none.

    Source: the paper, section IV D, for the sum; it leaves the three terms open.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits, truth = logits.float(), truth.float()
        bce = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        correct = torch.exp(-bce)  # probability of the true class
        alpha = FOCAL_ALPHA * truth + (1 - FOCAL_ALPHA) * (1 - truth)
        focal = (alpha * (1 - correct) ** FOCAL_GAMMA * bce).mean()
        band = boundary_band(truth)
        boundary = (bce * band).sum() / band.sum().clamp(min=1)
        overlap = HYBRID_DICE_WEIGHT * dice_loss(logits, truth)
        return overlap + HYBRID_FOCAL_WEIGHT * focal + HYBRID_BOUNDARY_WEIGHT * boundary


def boundary_band(truth: Tensor) -> Tensor:
    """1 within 3 px (chessboard distance) of a border between cell and background, else 0; shape of `truth`."""
    side = 2 * BOUNDARY_TOLERANCE_PX + 1
    grown = functional.max_pool2d(truth, side, stride=1, padding=BOUNDARY_TOLERANCE_PX)
    shrunk = -functional.max_pool2d(-truth, side, stride=1, padding=BOUNDARY_TOLERANCE_PX)
    return grown - shrunk


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "combined": combined_loss,
    "boundary-aware": boundary_aware_loss,
    "dice": dice_loss,
    "hybrid": hybrid_loss,
}
