"""Every line of `budgets.toml`, held to this run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from breastseg_benchmark.budgets import Budget, judge, read_budgets
from breastseg_benchmark.implementations import NO_GPU
from breastseg_benchmark.results import Results
from breastseg_benchmark.tables import verdict_text

BUDGETS = read_budgets(Path(__file__).with_name("budgets.toml"))


@pytest.mark.parametrize("budget", BUDGETS, ids=[budget.name for budget in BUDGETS])
def test_budget_is_kept(budget: Budget, results: Results) -> None:
    verdicts = judge(results, [budget])
    missed = [verdict_text(verdict) for verdict in verdicts if verdict.status == "missed"]
    if missed:
        pytest.fail("; ".join(missed), pytrace=False)
    reasons = [f"not run: {verdict.reason}" for verdict in verdicts if verdict.status == "not run"]
    if len(reasons) == len(verdicts):
        if os.environ.get("BREASTSEG_REQUIRE_GPU") == "1" and any(NO_GPU in reason for reason in reasons):
            pytest.fail(f"BREASTSEG_REQUIRE_GPU=1, and {reasons[0]}", pytrace=False)
        pytest.skip("; ".join(reasons))


def test_some_backend_of_the_runtime_was_measured(results: Results) -> None:
    assert [row.name for row in results.rows if row.kind == "backend" and row.not_run is None]
