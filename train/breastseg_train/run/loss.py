"""The stabilised combined loss of the paper: Dice + weighted BCE + Tversky, Algorithm 1 line by line."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

EPSILON = 1e-7
SMOOTH = 1.0
LOGIT_LIMIT = 10.0
DICE_WEIGHT, BCE_WEIGHT, TVERSKY_WEIGHT = 0.5, 0.3, 0.2
TVERSKY_FALSE_POSITIVE, TVERSKY_FALSE_NEGATIVE = 0.7, 0.3
MAX_POSITIVE_WEIGHT = 50.0


def combined_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Algorithm 1 of the paper; a scalar in float32, whatever the autocast.

    Args:
        logits: (B, 1, H, W), any floating-point dtype, finite.
        truth: (B, 1, H, W), 0 and 1.

    Source: the paper, Algorithm 1; the comments name its lines. Line 20 divides by B H W, so a batch without positives
    has an infinite ratio in line 21, which the clamp makes 50.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits, truth = logits.float(), truth.float()
        probability = torch.sigmoid(logits.clamp(-LOGIT_LIMIT, LOGIT_LIMIT))  # 3, 4
        probability = probability.clamp(EPSILON, 1 - EPSILON).flatten(1)  # 5; one row per sample
        expected = truth.flatten(1)
        true_positive = (probability * expected).sum(1)  # 11
        false_positive = (probability * (1 - expected)).sum(1)  # 12
        false_negative = ((1 - probability) * expected).sum(1)  # 13
        dice = (2 * true_positive + SMOOTH) / (probability.sum(1) + expected.sum(1) + SMOOTH)  # 14, 15
        tversky = (true_positive + SMOOTH) / (
            true_positive + TVERSKY_FALSE_POSITIVE * false_positive + TVERSKY_FALSE_NEGATIVE * false_negative + SMOOTH
        )  # 16
        bce = functional.binary_cross_entropy_with_logits(logits, truth, pos_weight=positive_weight(truth))  # 22
        return DICE_WEIGHT * (1 - dice.mean()) + BCE_WEIGHT * bce + TVERSKY_WEIGHT * (1 - tversky.mean())  # 18, 19, 23


def positive_weight(truth: Tensor) -> Tensor:
    """Weight of the positives in a batch, lines 20 and 21: negatives over positives, within [1, 50]; a scalar."""
    positive_ratio = truth.mean()
    return ((1 - positive_ratio) / positive_ratio).clamp(1.0, MAX_POSITIVE_WEIGHT)
