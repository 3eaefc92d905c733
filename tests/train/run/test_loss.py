"""Algorithm 1 of the paper against a transcription in float64, and against cases worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from breastseg_train.run.loss import combined_loss, positive_weight


def algorithm_1(logits: np.ndarray, truth: np.ndarray) -> float:
    """The paper's lines in their order, sample by sample, float64."""
    epsilon, smooth = 1e-7, 1.0
    clamped = np.clip(logits, -10, 10)
    sigmoid = 1 / (1 + np.exp(-clamped))
    sigmoid = np.clip(sigmoid, epsilon, 1 - epsilon)
    dice, tversky = [], []
    for p, t in zip(sigmoid, truth, strict=True):
        tp, fp, fn = (p * t).sum(), (p * (1 - t)).sum(), ((1 - p) * t).sum()
        u = p.sum() + t.sum()
        dice.append((2 * tp + smooth) / (u + smooth))
        tversky.append((tp + smooth) / (tp + 0.7 * fp + 0.3 * fn + smooth))
    ratio = truth.sum() / truth.size
    weight = 50.0 if ratio == 0 else min(50.0, max(1.0, (1 - ratio) / ratio))
    # -log(sigmoid(x)) = log(1 + exp(-x)), in the form that does not overflow
    bce = (weight * truth * np.logaddexp(0, -logits) + (1 - truth) * np.logaddexp(0, logits)).mean()
    return float(0.5 * (1 - np.mean(dice)) + 0.3 * bce + 0.2 * (1 - np.mean(tversky)))


@pytest.mark.parametrize("positives", [0.0, 0.001, 0.02, 0.3, 0.9, 1.0])
def test_loss_equals_the_transcription_in_float64(positives: float) -> None:
    rng = np.random.default_rng(7)
    logits = rng.normal(0, 6, (3, 1, 32, 32))
    truth = (rng.random(logits.shape) < positives).astype(np.float64)
    loss = combined_loss(torch.from_numpy(logits).float(), torch.from_numpy(truth).float())
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(algorithm_1(logits, truth), rel=1e-5)


@pytest.mark.parametrize(
    ("positives", "weight"), [(0, 50.0), (1, 50.0), (2, 49.0), (20, 4.0), (50, 1.0), (90, 1.0), (100, 1.0)]
)
def test_positive_weight_is_negatives_over_positives_between_1_and_50(positives: int, weight: float) -> None:
    truth = torch.zeros(1, 1, 10, 10)
    truth.view(-1)[:positives] = 1
    assert positive_weight(truth).item() == pytest.approx(weight)


def test_loss_of_one_undecided_pixel_is_what_the_algorithm_gives_by_hand() -> None:
    # P = 0.5, T = 1: TP = 0.5, FN = 0.5, dice = 2 / 2.5, tversky = 1.5 / 1.65, weight 1, bce = ln 2.
    expected = 0.5 * (1 - 2 / 2.5) + 0.3 * math.log(2) + 0.2 * (1 - 1.5 / 1.65)
    assert combined_loss(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)).item() == pytest.approx(expected, rel=1e-6)


def test_dice_is_computed_per_sample_so_a_large_cell_does_not_hide_a_missed_small_one() -> None:
    truth = torch.zeros(2, 1, 16, 16)
    truth[0, 0, :8] = 1
    truth[1, 0, :2, :2] = 1
    logits = torch.where(truth > 0, 10.0, -10.0)
    logits[1] = -10.0  # the small cell is missed
    pooled_dice = 2 * 128 / (128 + 132)
    loss = combined_loss(logits, truth)
    bce = 0.3 * algorithm_1_bce(logits.numpy().astype(np.float64), truth.numpy())
    assert loss.item() - bce > 0.5 * (1 - pooled_dice) * 10


def algorithm_1_bce(logits: np.ndarray, truth: np.ndarray) -> float:
    weight = (1 - truth.mean()) / truth.mean()
    return float((weight * truth * np.logaddexp(0, -logits) + (1 - truth) * np.logaddexp(0, logits)).mean())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("positives", [0.0, 0.1, 1.0])
def test_saturated_logits_in_half_precision_give_a_finite_loss_and_gradients(
    dtype: torch.dtype, positives: float
) -> None:
    generator = torch.Generator().manual_seed(3)
    truth = (torch.rand(2, 1, 64, 64, generator=generator) < positives).float()
    signs = torch.randint(0, 2, truth.shape, generator=generator) * 2 - 1
    logits = (signs * 1e4).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype):
        loss = combined_loss(logits, truth)
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.abs().sum() > 0


def test_loss_falls_when_a_step_follows_its_gradient() -> None:
    truth = torch.zeros(1, 1, 32, 32)
    truth[..., 8:20, 8:20] = 1
    logits = torch.zeros_like(truth).requires_grad_()
    before = combined_loss(logits, truth)
    before.backward()
    assert logits.grad is not None
    assert combined_loss(logits - 100 * logits.grad, truth) < before
