"""The threshold that a run chooses."""

from __future__ import annotations

import torch

from breastseg_train.run.validation import best_threshold, pixel_counts


def counts_of(masks: list[torch.Tensor], truth: torch.Tensor) -> torch.Tensor:
    """(N, T, 3) of one mask (N, 1, H, W) per threshold."""
    return torch.stack([pixel_counts(mask, truth) for mask in masks], dim=1)


def test_the_threshold_with_the_best_dice_is_chosen() -> None:
    truth = torch.zeros(1, 1, 4, 4)
    truth[..., :2, :] = 1
    everything, right = torch.ones_like(truth).bool(), truth.bool()
    assert best_threshold((0.3, 0.5, 0.7), counts_of([everything, everything, right], truth)) == 2


def test_of_equals_the_one_nearest_to_a_half_is_chosen() -> None:
    truth = torch.ones(2, 1, 4, 4)
    assert best_threshold((0.3, 0.45, 0.7), counts_of([truth.bool()] * 3, truth)) == 1


def test_cells_marked_in_an_empty_frame_count_against_a_threshold() -> None:
    truth = torch.zeros(2, 1, 4, 4)
    truth[0, ..., :2, :] = 1
    low, high = truth.bool().clone(), truth.bool().clone()
    low[1, ..., 0, 0] = True
    high[0, ..., 0, :] = False
    assert best_threshold((0.5, 0.9), counts_of([low, high], truth)) == 1
