"""The benchmark's report: one static HTML page, its plots inside, for a laptop and a phone."""

from __future__ import annotations

from breastseg_benchmark.plots import plots
from breastseg_benchmark.results import Kind, Results
from breastseg_benchmark.tables import (
    Table,
    growth_tables,
    not_run_lines,
    profile_tables,
    profiles_not_run,
    quality_table,
    speed_table,
    stage_table,
    threads_table,
    verdict_table,
)
from breastseg_deploy.extras import require


def report_html(results: Results) -> str:
    """The page; it needs no other file and no script.

    Raises:
        MachineError: the extra `benchmark` is not installed.
    """
    jinja2 = require("jinja2", "benchmark")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("breastseg_benchmark", ""),
        autoescape=jinja2.select_autoescape(["j2"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page: str = environment.get_template("report.html.j2").render(
        results=results,
        count={status: sum(one.status == status for one in results.verdicts) for status in ("passed", "missed")},
        verdicts=verdict_table(results.verdicts),
        own=_tables(results, ("backend", "paper")),
        own_not_run=not_run_lines([row for row in results.rows if row.kind != "peer"]),
        peers=_tables(results, ("peer",)),
        peers_not_run=not_run_lines([row for row in results.rows if row.kind == "peer"]),
        stages=stage_table(results) if any(row.stages_s for row in results.rows) else None,
        profiles=profile_tables(results.profiles),
        profiles_not_run=profiles_not_run(results.profiles),
        threads=threads_table(results.threads) if results.threads and results.threads.points else None,
        growth_tables=growth_tables(results).values(),
        plots=plots(results),
        facts=_facts(results),
    )
    return page


def _tables(results: Results, kinds: tuple[Kind, ...]) -> list[Table]:
    """Speed and quality of those that ran."""
    rows = [row for row in results.rows if row.kind in kinds]
    tables = [table(rows, results.runtime) for table in (speed_table, quality_table)]
    return [table for table in tables if len(table) > 1]


def _facts(results: Results) -> list[tuple[str, str]]:
    return [
        ("command", results.command),
        ("date", results.made_at),
        ("frames", results.frames),
        ("bundle exported", results.bundle.built_at),
        *results.environment.items(),
        *((row.name, row.detail) for row in results.rows if row.detail and row.kind == "backend"),
    ]
