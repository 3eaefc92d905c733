"""Latencies in bounded space: how far a quantile may be off, and adding up."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from breastseg_deploy.latency import Latencies

SECONDS = st.floats(0, 1e5, allow_nan=False)


def measured(seconds: list[float]) -> Latencies:
    latencies = Latencies()
    for one in seconds:
        latencies.record(one)
    return latencies


@settings(derandomize=True, deadline=None)
@given(st.lists(SECONDS, min_size=1), st.floats(0.001, 1))
def test_a_quantile_is_never_under_the_true_one_and_at_most_5_percent_over(seconds: list[float], share: float) -> None:
    true = sorted(seconds)[math.ceil(share * len(seconds)) - 1]
    found = measured(seconds).quantile(share)
    assert true <= found * (1 + 1e-9)
    assert found <= max(true * 1.05 * (1 + 1e-9), 1e-5)


@settings(derandomize=True, deadline=None)
@given(st.lists(SECONDS), st.lists(SECONDS))
def test_two_added_up_are_as_one_that_saw_both(first: list[float], second: list[float]) -> None:
    added, both = measured(first), measured(first + second)
    added.add(measured(second))
    assert added.figures().sum_s == pytest.approx(both.figures().sum_s)
    assert (added.count, added.max_s) == (both.count, both.max_s)
    assert all(added.quantile(share) == both.quantile(share) for share in (0.5, 0.95, 0.99, 1.0))


def test_nothing_measured_is_zero() -> None:
    figures = Latencies().figures()
    assert (figures.count, figures.p50_s, figures.p99_s, figures.max_s) == (0, 0, 0, 0)


@pytest.mark.parametrize("seconds", [1e-9, 3e9, -1.0])
def test_what_lies_outside_the_buckets_is_counted_and_the_maximum_is_exact(seconds: float) -> None:
    latencies = measured([seconds])
    assert latencies.count == 1
    assert latencies.max_s == max(0.0, seconds)
    assert latencies.quantile(0.5) <= latencies.max_s
