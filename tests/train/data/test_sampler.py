"""Draws decided by seed and epoch alone."""

from __future__ import annotations

from collections import Counter

import pytest

from breastseg_train.data.sampler import SeededDraws


def test_the_same_seed_and_epoch_draw_the_same_and_another_epoch_does_not() -> None:
    first, again, later = (SeededDraws([1.0, 2.0, 3.0], 3, seed=5) for _ in range(3))
    later.set_epoch(1)
    assert list(first) == list(again)
    assert list(first) != list(later)


@pytest.mark.parametrize("weights", [None, [1.0] * 4 + [3.0] * 6])
def test_two_processes_together_draw_what_one_process_draws(weights: list[float] | None) -> None:
    alone = list(SeededDraws(weights, 10, seed=2))
    shares = [list(SeededDraws(weights, 10, seed=2, rank=rank, processes=2)) for rank in range(2)]
    interleaved = [draw for pair in zip(*shares, strict=True) for draw in pair]
    assert interleaved == alone


def test_processes_get_equally_many_draws_where_the_count_does_not_divide() -> None:
    shares = [list(SeededDraws(None, 11, seed=2, rank=rank, processes=3)) for rank in range(3)]
    assert [len(share) for share in shares] == [3, 3, 3]


def test_without_weights_every_sample_is_drawn_once() -> None:
    assert sorted(draw.sample for draw in SeededDraws(None, 50, seed=1)) == list(range(50))


def test_samples_are_drawn_in_proportion_to_their_weights() -> None:
    counts = Counter(draw.sample % 2 for draw in SeededDraws([1.0, 3.0] * 2000, 4000, seed=1))
    assert counts[1] / counts[0] == pytest.approx(3, rel=0.1)


def test_every_draw_has_its_own_augmentation_seed() -> None:
    seeds = [draw.seed for draw in SeededDraws([1.0] * 100, 100, seed=1)]
    assert len(set(seeds)) == 100
