"""Eq. (6) and the outlier rule."""

from __future__ import annotations

import numpy as np
import pytest

from breastseg_train.run.stabilise import best_epoch, stabilised


def test_average_follows_equation_6_from_the_first_score() -> None:
    averages = [epoch.ema for epoch in stabilised([0.5, 0.7, 0.6])]
    assert averages == pytest.approx([0.5, 0.52, 0.528])


def test_a_collapse_like_the_papers_is_an_outlier() -> None:
    rng = np.random.default_rng(0)
    scores = [*(0.92 + rng.normal(0, 0.004, 33)), 0.1366]
    history = stabilised(scores)
    assert history[-1].outlier
    assert history[-1].ema > 0.8


def test_a_lucky_spike_is_an_outlier_and_never_the_best() -> None:
    rng = np.random.default_rng(1)
    scores = [*(0.80 + rng.normal(0, 0.004, 20)), 0.97, 0.81]
    history = stabilised(scores)
    assert history[20].outlier
    assert best_epoch(history) != 20
    assert history[best_epoch(history)].score == max(s for i, s in enumerate(scores) if i != 20)


def test_steady_progress_is_no_outlier_and_its_last_epoch_is_the_best() -> None:
    history = stabilised(list(np.linspace(0.2, 0.9, 40)))
    assert not any(epoch.outlier for epoch in history)
    assert best_epoch(history) == 39


def test_scores_that_stand_still_make_no_outliers_of_noise() -> None:
    assert not any(epoch.outlier for epoch in stabilised([0.9] * 12 + [0.904]))


def test_the_earliest_of_equal_scores_is_the_best() -> None:
    assert best_epoch(stabilised([0.3, 0.6, 0.6, 0.5])) == 1
