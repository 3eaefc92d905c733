"""Budgets, read from a TOML file, and the verdicts on a run: passed, missed, or not run and why."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from breastseg_benchmark.figures import FIGURES, MEMORY_GROWTH, text_of
from breastseg_benchmark.implementations import NO_GPU
from breastseg_benchmark.results import Part, Results, Row, Verdict
from breastseg_deploy.errors import ArgumentError

GPU, CPU = "gpu", "cpu"
_MB = 1e6


class Budget(Part):
    """One line of what is expected.

    Attributes:
        name: of the budget.
        of: an implementation's name, "gpu" or "cpu" for each backend there, or an operation's name in `Results.extra`.
        figure: one of FIGURES, "memory_growth_mb", or a figure in `Results.extra`.
        at_least, at_most: the bound; one of them.
        short: the bound in the short form, for busy machines; None for the same.
        size_px: the frame size that it was set for; None for any.
        source: where the bound comes from.
    """

    name: str
    of: str
    figure: str
    at_least: float | None = None
    at_most: float | None = None
    short: float | None = None
    size_px: tuple[int, int] | None = None
    source: str = ""

    @model_validator(mode="after")
    def _one_bound(self) -> Budget:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("a budget has either at_least or at_most")
        return self

    @property
    def bound(self) -> str:
        """In words."""
        sign, bound = (">=", self.at_least) if self.at_least is not None else ("<=", self.at_most)
        unit = text_of(self.figure).partition("}")[2]
        return f"{sign} {bound:g}{unit}"

    def met_by(self, value: float) -> bool:
        """Whether a figure keeps it; not a number never does."""
        return value >= self.at_least if self.at_least is not None else value <= (self.at_most or 0.0)

    def in_short_form(self) -> Budget:
        """The same with the bound of the short form."""
        if self.short is None:
            return self
        bound = "at_least" if self.at_least is not None else "at_most"
        return self.model_copy(update={bound: self.short})


class _File(Part):
    budget: tuple[Budget, ...] = Field(min_length=1)


def read_budgets(path: Path) -> tuple[Budget, ...]:
    """The budgets of a TOML file, an array of tables `budget`.

    Raises:
        ArgumentError: unreadable, no TOML, or a budget that is not as `Budget` says.
    """
    try:
        return _File.model_validate(tomllib.loads(path.read_text("utf-8"))).budget
    except (OSError, ValueError) as err:
        reason = str(err)
        if isinstance(err, ValidationError):
            first = err.errors()[0]
            reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise ArgumentError(f"{path} must be a TOML file of [[budget]] tables, got {reason}; mend it") from err


def judge(results: Results, budgets: Sequence[Budget]) -> tuple[Verdict, ...]:
    """The verdicts, in the order of the budgets; "gpu" and "cpu" give one for each backend there that ran.

    A Dice that "gpu" or "cpu" asks for is not asked of backends that serve by name only: their precision has limits of
    its own.
    """
    held = [budget.in_short_form() if results.short else budget for budget in budgets]
    return tuple(verdict for budget in held for verdict in _verdicts(results, budget))


def _verdicts(results: Results, budget: Budget) -> Iterator[Verdict]:
    if budget.of in results.extra or budget.figure not in {*FIGURES, MEMORY_GROWTH}:
        value = results.extra.get(budget.of, {}).get(budget.figure)
        reason = f"no {budget.of} was measured" if value is None else ""
        yield _verdict(budget, budget.of, value, reason)
        return
    if budget.of not in (GPU, CPU):
        named = [row for row in results.rows if row.name == budget.of]
        if not named:
            yield _verdict(budget, budget.of, None, f"no {budget.of} in this run")
        for row in named:
            yield _of_row(results, budget, row)
        return
    kind = [row for row in results.rows if row.kind == "backend" and row.on_gpu == (budget.of == GPU)]
    rows = [row for row in kind if not row.by_name_only or "_dice" not in budget.figure]
    ran = [row for row in rows if row.not_run is None]
    if not ran:
        yield _verdict(budget, budget.of, None, _why_none(budget.of, rows))
    for row in ran:
        yield _of_row(results, budget, row)


def _why_none(of: str, rows: Sequence[Row]) -> str:
    """Why no backend of a kind ran; without a GPU that says it all."""
    if of == GPU and any((row.not_run or "").startswith(NO_GPU) for row in rows):
        return NO_GPU
    if not rows:
        return f"no backend on a {of.upper()} took part"
    return "; ".join(f"{row.name}: {row.not_run}" for row in rows)


def _of_row(results: Results, budget: Budget, row: Row) -> Verdict:
    if row.not_run is not None:
        return _verdict(budget, row.name, None, row.not_run)
    if budget.size_px is not None and budget.size_px != results.bundle.size_px:
        sizes = " x ".join(map(str, results.bundle.size_px)), " x ".join(map(str, budget.size_px))
        return _verdict(budget, row.name, None, f"the bundle is for {sizes[0]}, the budget for {sizes[1]}")
    if budget.figure == MEMORY_GROWTH:
        return _of_growth(results, budget, row)
    figure = FIGURES[budget.figure]
    if results.short and figure.absolute:
        return _verdict(budget, row.name, None, "short form: ratios only")
    value = figure.of(row)
    return _verdict(budget, row.name, value, _why_missing(results, budget.figure) if value is None else "")


def _of_growth(results: Results, budget: Budget, row: Row) -> Verdict:
    growth = results.growth
    if growth is None or growth.backend != row.name or growth.memory is None:
        failed = growth.not_run if growth is not None and growth.backend == row.name else None
        return _verdict(budget, row.name, None, failed or "growth was not measured with it")
    return _verdict(budget, row.name, growth.memory.growth_bytes / _MB, "")


def _why_missing(results: Results, figure: str) -> str:
    if figure == "ratio_to_paper":
        papers = [row for row in results.rows if row.kind == "paper"]
        why = papers[0].not_run if papers else "no part of this run"
        return f"the paper's pipeline: {why}"
    if figure == "ratio_to_runtime":
        return "no backend took part that the runtime chooses by itself"
    if figure.startswith("gpu_"):
        return "the driver does not say"
    return "nothing to measure it on"


def _verdict(budget: Budget, of: str, value: float | None, reason: str) -> Verdict:
    status: Literal["passed", "missed", "not run"] = "not run"
    if value is not None:
        status = "passed" if budget.met_by(value) else "missed"
    return Verdict(
        budget=budget.name,
        of=of,
        bound=budget.bound,
        measured="" if value is None else text_of(budget.figure).format(value),
        status=status,
        reason=reason,
        source=budget.source,
    )
