from __future__ import annotations

import json

import numpy as np
import pytest
from made_up import results
from pydantic import ValidationError

from breastseg_benchmark.results import Agreement, Distribution, Ratio, Results

EMPTY, FULL = np.zeros((4, 4), np.uint8), np.ones((4, 4), np.uint8)
HALF = np.array([[1, 1, 0, 0]] * 4, np.uint8)


def test_percentiles_of_a_hundred_and_one_known_samples() -> None:
    found = Distribution.of([number / 100 for number in range(100, 201)])
    assert (found.p50_s, found.p95_s, found.p99_s) == pytest.approx((1.5, 1.95, 1.99))
    assert found.seconds[0] == 1.0


def test_one_sample_is_every_percentile() -> None:
    found = Distribution.of([0.25])
    assert (found.p50_s, found.p95_s, found.p99_s) == (0.25, 0.25, 0.25)


def test_a_ratio_is_taken_pair_by_pair_and_not_of_medians() -> None:
    found = Ratio.of([1.0, 10.0, 3.0], [2.0, 20.0, 1.0])  # the machine was slow in the second round
    assert (found.median, found.low, found.high, found.pairs) == (0.5, 0.5, 3.0, 3)


def test_a_ratio_of_unequal_numbers_of_calls_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Ratio.of([1.0, 2.0], [1.0])


def test_frames_with_cells_stand_apart_from_empty_ones() -> None:
    found = Agreement.of([FULL, HALF, EMPTY, FULL], [FULL, FULL, EMPTY, None])
    assert found is not None
    assert (found.frames, found.frames_with_cells) == (3, 2)
    assert found.mean_dice == pytest.approx((1 + 2 / 3 + 1) / 3)
    assert found.mean_dice_with_cells == pytest.approx((1 + 2 / 3) / 2)
    assert found.worst_dice == found.worst_dice_with_cells == pytest.approx(2 / 3)
    assert found.mean_dice_without_cells == 1.0


def test_a_false_positive_shows_in_the_empty_frames_alone() -> None:
    found = Agreement.of([FULL, FULL], [FULL, EMPTY])
    assert found is not None
    assert (found.mean_dice_with_cells, found.mean_dice_without_cells) == (1.0, 0.0)


def test_nothing_to_compare_with_gives_no_figure() -> None:
    assert Agreement.of([FULL], [None]) is None
    only_empty = Agreement.of([EMPTY], [EMPTY])
    assert only_empty is not None
    assert only_empty.mean_dice_with_cells is None


def test_the_document_reads_back_as_it_was_written() -> None:
    made = results()
    assert Results.model_validate_json(made.model_dump_json()) == made


def test_the_document_follows_its_schema_version_and_holds_no_unknown_field() -> None:
    document = json.loads(results().model_dump_json())
    assert document["schema_version"] == 1
    with pytest.raises(ValidationError, match="extra"):
        Results.model_validate({**document, "speed": "fast"})
    with pytest.raises(ValidationError, match="schema_version"):
        Results.model_validate({**document, "schema_version": 2})
    with pytest.raises(ValidationError, match="finite"):
        Distribution(seconds=(1.0,), p50_s=float("nan"), p95_s=1.0, p99_s=1.0)
