"""Figures of cells on cases that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from breastseg_deploy.errors import ArgumentError
from breastseg_deploy.instance_metrics import InstanceCounts, instance_counts, together

Box = tuple[int, int, int, int]


def drawn(*boxes: Box) -> NDArray[np.uint16]:
    """(64, 64) labels: a rectangle for each box (top, left, height, width), numbered from 1."""
    labels = np.zeros((64, 64), np.uint16)
    for number, (top, left, height, width) in enumerate(boxes, start=1):
        labels[top : top + height, left : left + width] = number
    return labels


def test_the_truth_itself_is_perfect() -> None:
    truth = drawn((0, 0, 8, 8), (0, 9, 8, 8), (20, 20, 10, 10))
    figures = instance_counts(truth, truth).figures()
    assert figures == {
        "truth": 3,
        "found": 3,
        "f1": 1.0,
        "ap": 1.0,
        "pq": 1.0,
        "aji": 1.0,
        "count_error": 0.0,
        "close_pairs": 1,
        "merged": 0.0,
    }


def test_numbers_need_not_follow_each_other() -> None:
    truth = drawn((0, 0, 8, 8), (20, 20, 10, 10))
    assert instance_counts(truth * 300, truth).f1 == 1


def test_one_hit_one_miss_and_one_false_cell() -> None:
    truth = drawn((0, 0, 10, 10), (30, 30, 10, 10))
    found = drawn((0, 0, 8, 10), (50, 0, 10, 10))
    counts = instance_counts(found, truth)
    assert (counts.truth, counts.found, counts.matched) == (2, 2, 1)
    assert counts.f1 == pytest.approx(2 / 4)
    assert counts.ap == pytest.approx(1 / 3)
    assert counts.pq == pytest.approx(0.8 / 2)  # one pair of 80 / 100, one half of two false and missed
    assert counts.aji == pytest.approx(80 / (100 + 100 + 100))
    assert counts.count_error == 0


def test_a_cell_counts_as_found_from_half_of_the_union_on() -> None:
    truth = drawn((0, 0, 10, 10))
    assert instance_counts(drawn((0, 0, 5, 10)), truth).matched == 1
    assert instance_counts(drawn((0, 0, 7, 7)), truth).matched == 0


def test_two_exact_halves_of_a_cell_are_one_hit_and_one_false_cell() -> None:
    truth, halves = drawn((0, 0, 10, 10)), drawn((0, 0, 5, 10), (5, 0, 5, 10))
    counts = instance_counts(halves, truth)
    assert (counts.matched, counts.f1) == (1, pytest.approx(2 / 3))
    assert instance_counts(truth, halves).matched == 1


def test_close_cells_under_one_found_cell_are_merged() -> None:
    truth = drawn((0, 0, 10, 10), (0, 10, 10, 10))
    counts = instance_counts(drawn((0, 0, 10, 20)), truth)
    assert (counts.close_pairs, counts.merged_pairs, counts.merged) == (1, 1, 1.0)
    assert instance_counts(drawn((0, 0, 10, 12), (0, 12, 10, 8)), truth).merged == 0


def test_a_close_pair_that_nothing_covers_is_missed_and_not_merged() -> None:
    truth = drawn((0, 0, 10, 10), (0, 10, 10, 10))
    assert instance_counts(drawn((40, 40, 10, 10)), truth).merged == 0


@pytest.mark.parametrize(("gap_px", "close"), [(0, 1), (1, 1), (2, 0)])
def test_a_pair_is_close_where_pixels_are_less_than_3_px_apart(gap_px: int, close: int) -> None:
    truth = drawn((0, 0, 10, 10), (0, 10 + gap_px, 10, 10))
    assert instance_counts(truth, truth).close_pairs == close


def test_close_pairs_are_found_on_diagonals_both_ways() -> None:
    for other in ((11, 21, 10, 10), (11, 2, 10, 8)):
        truth = drawn((0, 10, 10, 10), other)
        assert instance_counts(truth, truth).close_pairs == 1


def test_objects_under_30_px_count_nowhere() -> None:
    truth = drawn((0, 0, 10, 10), (30, 30, 5, 5))
    found = drawn((0, 0, 10, 10), (50, 50, 5, 5))
    assert instance_counts(found, truth).f1 == 1


def test_frames_without_cells_have_no_figures_and_false_cells_on_them_count() -> None:
    empty = drawn()
    nothing = instance_counts(empty, empty)
    assert set(nothing.figures().values()) == {0, None}
    with_cells = instance_counts(drawn((0, 0, 10, 10)), drawn((0, 0, 10, 10)))
    false = instance_counts(drawn((0, 0, 10, 10)), empty)
    assert together([with_cells, nothing]).f1 == 1
    assert together([with_cells, false]).f1 == pytest.approx(2 / 3)


def test_figures_of_several_frames_are_those_of_all_their_cells() -> None:
    many = instance_counts(drawn((0, 0, 10, 10), (20, 0, 10, 10), (40, 0, 10, 10)), drawn((0, 0, 10, 10)))
    few = instance_counts(drawn(), drawn((0, 0, 10, 10), (20, 0, 10, 10)))
    both = together([many, few])
    assert (both.truth, both.found, both.matched) == (3, 3, 1)
    assert both.count_error == pytest.approx((2 + 2) / 3)
    assert together([]) == InstanceCounts()


def test_two_shapes_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"one shape, got \(4, 4\) and \(5, 4\); crop one"):
        instance_counts(np.zeros((4, 4), int), np.zeros((5, 4), int))
