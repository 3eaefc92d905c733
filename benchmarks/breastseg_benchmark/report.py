"""The benchmark's report: one static HTML page, its plots inside, for a laptop and a phone, light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib import resources

from breastseg_benchmark.plots import growth_plots, latency_plot, peer_plot, stage_plot
from breastseg_benchmark.results import Results
from breastseg_benchmark.tables import (
    Table,
    growth_tables,
    not_run_lines,
    quality_table,
    speed_table,
    stage_table,
    verdict_table,
)


def report_html(results: Results) -> str:
    """The page; it needs no other file and no script."""
    bundle = results.bundle
    title = f"Benchmark: {bundle.name}, {bundle.encoder}, {bundle.size_px[0]} x {bundle.size_px[1]} px"
    parts = [
        f"<h1>{escape(title)}</h1>",
        _summary(results),
        _section(
            "Verdicts", _verdicts(results), "Every budget is kept, missed, or not run; what was not run says why."
        ),
        _section("The runtime and the paper's pipeline", _contestants(results, ("backend", "paper")), _HOW_MEASURED),
        _section("Peers", _peers(results), _HOW_PEERS),
        _section("Latency", latency_plot(results), _HOW_LATENCY),
        _section("Stages", _stages(results), _HOW_STAGES),
        _section("Growth", _growth(results), _how_growth(results)),
        _section("Made by", _facts(results)),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_style()}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )


_HOW_MEASURED = (
    "One frame at a time, from uint8 on the host to the mask on the host. All are called in turn, A B A B, on the same "
    "frame, each in a process of its own, so a busy machine slows all of them: trust ratios (median over pairs, and "
    "their range) before seconds. Dice is against the float32 reference; two empty masks count as 1, so frames with "
    "cells stand apart. Memory is the most that the whole process took."
)
_HOW_PEERS = (
    "The same weights and frames, each peer in turn with the runtime. A time / runtime over 1 means that the runtime "
    "is faster. Open is paid once: quantisation and compilation included; the plain ONNX export that some peers start "
    "from is made before and not counted."
)
_HOW_LATENCY = "A dot is a call; the three marks are the 50th, 95th and 99th percentile."
_HOW_STAGES = (
    "Medians. A backend names its own stages; one that does several things in one graph cannot part them. On a GPU, "
    "device stages are timed by CUDA events, end to end by the host's clock."
)


def _how_growth(results: Results) -> str:
    if results.growth is None:
        return ""
    words = f"Measured with {results.growth.backend}. Batches grow from small to large in one process."
    if results.growth.sizes:
        words += " Each frame size is a bundle of its own of the same checkpoint: a bundle takes one size only."
    return words


def _summary(results: Results) -> str:
    missed = [one for one in results.verdicts if one.status == "missed"]
    ran = [one for one in results.verdicts if one.status == "passed"]
    idle = len(results.verdicts) - len(missed) - len(ran)
    if missed:
        pill = f'<span class="pill missed">{len(missed)} missed</span>'
    elif ran:
        pill = f'<span class="pill passed">{len(ran)} passed</span>'
    else:
        pill = '<span class="pill idle">no budget was held</span>'
    rest = f" &nbsp;{idle} not run." if idle else ""
    short = " Short form: ratios only." if results.short else ""
    when = f"{results.made_at.replace('T', ' ')[:16]} UTC"
    return (
        f"<p>{pill}{rest}{short}</p>\n"
        f'<p class="quiet">{escape(when)}, {escape(results.environment.get("processor", ""))}. '
        f"On {escape(results.frames)}; {results.rounds} calls each.</p>"
    )


def _section(title: str, body: str, words: str = "") -> str:
    if not body:
        return ""
    told = f'<p class="quiet">{escape(words)}</p>' if words else ""
    return f"<h2>{escape(title)}</h2>\n{told}\n{body}"


def _table(table: Table, kind: str = "", marks: Sequence[str] = ()) -> str:
    """A table; `marks` are classes of the last cells, row by row."""
    head, *rows = table
    lines = []
    for number, row in enumerate(rows):
        cells = [_cell(cell, name, "") for cell, name in zip(row, head, strict=True)]
        if marks:
            cells[-1] = _cell(row[-1], head[-1], f' class="{marks[number]}"')
        lines.append(f"<tr>{''.join(cells)}</tr>")
    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    top = f"<thead><tr>{names}</tr></thead>" if any(head) else ""
    return f'<div class="scroll"><table class="{kind}">{top}<tbody>{"".join(lines)}</tbody></table></div>'


def _cell(words: str, name: str, mark: str) -> str:
    """A cell that knows its column's name, for screens on which a row becomes a card."""
    told = f' data-name="{escape(name)}"' if name else ""
    return f"<td{told}{mark}>{escape(words)}</td>"


def _verdicts(results: Results) -> str:
    if not results.verdicts:
        return ""
    classes = {"passed": "passed", "missed": "missed", "not run": "idle"}
    head, *rows = verdict_table(results.verdicts)
    with_source = ((*head[:-1], "from", head[-1]), *(
        (*row[:-1], one.source, row[-1]) for row, one in zip(rows, results.verdicts, strict=True)
    ))  # fmt: skip
    return _table(with_source, "words cards", [classes[one.status] for one in results.verdicts])


def _contestants(results: Results, kinds: Sequence[str]) -> str:
    rows = [row for row in results.rows if row.kind in kinds]
    tables = [table(rows, results.runtime) for table in (speed_table, quality_table)]
    idle = [f'<p class="idle">{escape(line)}</p>' for line in not_run_lines(rows)]
    return "".join([_table(table) for table in tables if len(table) > 1] + idle)


def _peers(results: Results) -> str:
    if not any(row.kind == "peer" for row in results.rows):
        return ""
    return _contestants(results, ("peer",)) + peer_plot(results)


def _stages(results: Results) -> str:
    if not any(row.stages_s for row in results.rows):
        return ""
    return _table(stage_table(results)) + stage_plot(results)


def _growth(results: Results) -> str:
    growth = results.growth
    if growth is None:
        return ""
    tables = "".join(_table(table) for table in growth_tables(results).values())
    told = "" if growth.not_run is None else f'<p class="idle">not run: {escape(growth.not_run)}</p>'
    if growth.memory is not None:
        told = (
            f"<p>Over {growth.memory.frames:,} frames in one process, resident memory changed by "
            f"{growth.memory.growth_bytes / 1e6:+.1f} MB between the second quarter and the last.</p>"
        )
    return tables + told + growth_plots(growth)


def _facts(results: Results) -> str:
    rows = [("command", results.command), ("date", results.made_at), ("frames", results.frames)]
    rows += [("bundle exported", results.bundle.built_at), *results.environment.items()]
    rows += [(row.name, row.detail) for row in results.rows if row.detail and row.kind == "backend"]
    return _table((("", ""), *rows), "words facts")


def _style() -> str:
    return resources.files(__package__).joinpath("report.css").read_text("utf-8")
