"""The optimiser's schedule and the figures of validation."""

from __future__ import annotations

import pytest
import torch
from torch.optim import AdamW

from breastseg_train.run.configuration import PRESETS
from breastseg_train.run.module import one_cycle
from breastseg_train.run.validation import pixel_counts, validation_figures


def test_the_learning_rate_rises_for_a_tenth_of_the_steps_and_falls_back() -> None:
    paper, steps = PRESETS["paper"], 1000
    optimizer = AdamW([torch.nn.Parameter(torch.zeros(1))], lr=paper.lr_max)
    schedule = one_cycle(optimizer, paper, steps)
    rates = []
    for _ in range(steps):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        if len(rates) < steps:
            schedule.step()
    assert rates[0] == pytest.approx(3e-7)
    assert rates[-1] == pytest.approx(3e-7)
    assert max(rates) == pytest.approx(3e-4)
    assert rates.index(max(rates)) == 99


def test_pixel_counts_are_right_for_each_frame() -> None:
    mask = torch.tensor([[[[1, 1], [0, 0]]], [[[0, 0], [0, 0]]]], dtype=torch.bool)
    truth = torch.tensor([[[[1.0, 0], [1, 1]]], [[[0, 0], [0, 0]]]])
    assert pixel_counts(mask, truth).tolist() == [[1, 1, 2], [0, 0, 0]]


def test_empty_frames_count_1_where_left_empty_and_0_where_cells_are_found() -> None:
    counts = torch.tensor([[30, 10, 20], [0, 0, 0], [0, 5, 0]])
    figures = validation_figures(counts)
    assert figures["dice_with_cells"] == pytest.approx(60 / 90)
    assert figures["iou_with_cells"] == pytest.approx(0.5)
    assert figures["dice"] == pytest.approx((60 / 90 + 1 + 0) / 3)
    assert figures["false_positive_rate"] == pytest.approx(0.5)


def test_figures_of_frames_that_do_not_exist_are_left_out() -> None:
    assert validation_figures(torch.tensor([[0, 0, 0]])) == {"dice": 1, "false_positive_rate": 0}
