"""The boundary-aware and the hybrid loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from breastseg_train.paper.loss_variants import LOSSES, boundary_aware_loss, boundary_band, dice_loss, hybrid_loss
from breastseg_train.run.loss import combined_loss


def square_truth() -> torch.Tensor:
    truth = torch.zeros(1, 1, 32, 32)
    truth[..., 8:24, 8:24] = 1
    return truth


def test_the_band_reaches_3_px_to_both_sides_of_a_border() -> None:
    across = boundary_band(square_truth())[0, 0, 16].tolist()
    assert across == [0] * 5 + [1] * 6 + [0] * 10 + [1] * 6 + [0] * 5


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_frame_without_borders_has_no_band(value: float) -> None:
    assert boundary_band(torch.full((1, 1, 16, 16), value)).sum() == 0


def test_without_borders_the_boundary_aware_loss_is_algorithm_1() -> None:
    logits = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    truth = torch.zeros_like(logits)
    assert boundary_aware_loss(logits, truth) == combined_loss(logits, truth)


def test_the_boundary_aware_loss_weighs_border_pixels_three_times_in_its_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, truth = torch.randn(1, 1, 32, 32, generator=generator), square_truth()
    x, t, band = (tensor.double().numpy() for tensor in (logits, truth, boundary_band(truth)))
    weight = (1 - t.mean()) / t.mean()
    bce = weight * t * np.logaddexp(0, -x) + (1 - t) * np.logaddexp(0, x)
    more = 0.3 * (((1 + 2 * band) * bce).mean() - bce.mean())
    assert (boundary_aware_loss(logits, truth) - combined_loss(logits, truth)).item() == pytest.approx(more, rel=1e-5)


def test_the_dice_loss_is_the_mean_over_frames_of_one_minus_soft_dice() -> None:
    """One frame half covered at probability 1/2, one empty and left empty: 1 - (2 * 8 + 1) / (16 + 16 + 1), and 0."""
    truth = torch.zeros(2, 1, 4, 8)
    truth[0, :, :, :4] = 1
    logits = torch.zeros(2, 1, 4, 8)
    logits[1] = -1e4
    assert dice_loss(logits, truth).item() == pytest.approx((1 - 17 / 33) / 2, rel=1e-6)


def test_the_hybrid_loss_equals_its_formula_in_float64() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, truth = 3 * torch.randn(2, 1, 32, 32, generator=generator), square_truth().repeat(2, 1, 1, 1)
    x, t, band = (tensor.double().numpy() for tensor in (logits, truth, boundary_band(truth)))
    p = 1 / (1 + np.exp(-x))
    axes = (1, 2, 3)
    dice = (2 * (p * t).sum(axes) + 1) / (p.sum(axes) + t.sum(axes) + 1)
    true_class = np.where(t == 1, p, 1 - p)
    focal = (np.where(t == 1, 0.25, 0.75) * (1 - true_class) ** 2 * -np.log(true_class)).mean()
    boundary = -np.log(true_class)[band == 1].mean()
    expected = 0.5 * (1 - dice.mean()) + 0.3 * focal + 0.2 * boundary
    assert hybrid_loss(logits, truth).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_saturated_logits_in_half_precision_give_finite_losses_and_gradients(name: str, dtype: torch.dtype) -> None:
    truth = square_truth()
    for sign in (1, -1):
        logits = (sign * 1e4 * (2 * truth - 1)).to(dtype).requires_grad_()
        with torch.autocast("cpu", dtype):
            loss = LOSSES[name](logits, truth)
        loss.backward()
        assert torch.isfinite(loss)
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all()


def test_an_empty_frame_has_a_finite_hybrid_loss() -> None:
    assert torch.isfinite(hybrid_loss(torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16)))
