"""Results as rows of words, for the terminal and for the report: one place decides how a figure is written."""

from __future__ import annotations

from collections.abc import Sequence

from breastseg_benchmark.figures import frames_per_s, resident_peak_gb
from breastseg_benchmark.results import (
    Agreement,
    BatchPoint,
    Distribution,
    KindOfLayer,
    Profile,
    Ratio,
    Results,
    Row,
    SizePoint,
    Threads,
    Verdict,
)

NOTHING = "-"
Table = tuple[tuple[str, ...], ...]
"""The head, then the rows."""


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    """Budget, whose, bound, measured, where the budget comes from, verdict."""
    head = ("budget", "of", "bound", "measured", "from", "verdict")
    return head, *(
        (one.budget, one.of, one.bound, one.measured or NOTHING, one.source, _status(one)) for one in verdicts
    )


def verdict_text(verdict: Verdict) -> str:
    """One verdict as a sentence."""
    if verdict.status == "not run":
        return f"{verdict.budget} ({verdict.of}): {_status(verdict)}"
    return f"{verdict.budget} ({verdict.of}): {verdict.measured}, budget {verdict.bound}: {_status(verdict)}"


def speed_table(rows: Sequence[Row], runtime: str | None) -> Table:
    """Times of those that ran; columns without a figure are omitted."""
    head = ("implementation", "p50", "p95", "p99", "frames/s", "first frame", "open", "time / runtime", "time / paper")
    return _without_empty_columns(head, [_speed(row, runtime) for row in rows if row.not_run is None])


def quality_table(rows: Sequence[Row], runtime: str | None) -> Table:
    """Dice and memory of those that ran; columns without a figure are omitted."""
    head = (
        "implementation", "mean Dice", "with cells", "without cells", "worst Dice", "Dice to truth",
        "with cells, to truth", "host memory", "GPU memory",
    )  # fmt: skip
    return _without_empty_columns(head, [_quality(row, runtime) for row in rows if row.not_run is None])


def not_run_lines(rows: Sequence[Row]) -> list[str]:
    """What was not run, and why."""
    return [f"{row.name}: not run: {row.not_run}" for row in rows if row.not_run is not None]


def stage_table(results: Results) -> Table:
    """Milliseconds by stage, medians, one column for each implementation that knows its stages."""
    rows = [row for row in results.rows if row.stages_s]
    stages = list(dict.fromkeys(stage for row in rows for stage in row.stages_s if stage != "total"))
    lines = []
    if results.decode is not None:
        lines.append(("decode the file", *(_ms(results.decode.p50_s) for _ in rows)))
    for stage in stages:
        words = STAGE_WORDS.get(stage, stage)
        lines.append((words, *(_ms(row.stages_s[stage]) if stage in row.stages_s else NOTHING for row in rows)))
    if any(row.on_gpu for row in rows):
        lines.append(("kernels, by CUDA events", *(_kernels(row) for row in rows)))
    lines.append(("end to end", *(_p50(row.latency) for row in rows)))
    lines.append(("compile, build, load (once)", *(_seconds(row.open_s) for row in rows)))
    return ("stage", *(row.name for row in rows)), *lines


def growth_tables(results: Results) -> dict[str, Table]:
    """By batch, and by frame size; a table that was not measured is omitted."""
    growth = results.growth
    tables: dict[str, Table] = {}
    if growth is not None and growth.batches:
        lines = [_grown(str(one.batch), one, one.batch) for one in growth.batches]
        tables["batch"] = (("batch", "per call", "per frame", "resident peak"), *lines)
    if growth is not None and growth.sizes:
        sizes = [(one, *one.size_px) for one in growth.sizes]
        lines = [_grown(f"{height} x {width}", one, height * width / 1e6) for one, height, width in sizes]
        tables["size"] = (("frame", "per frame", "per megapixel", "resident peak"), *lines)
    return tables


def _grown(name: str, point: BatchPoint | SizePoint, divisor: float) -> tuple[str, ...]:
    """A line of a growth table: time, time divided by what grows, memory."""
    seconds = point.latency.p50_s
    return name, _ms(seconds), _ms(seconds / divisor), _mb(point.resident_peak_bytes)


def profile_tables(profiles: Sequence[Profile]) -> list[tuple[str, Table]]:
    """A sentence and a table for each backend whose layers were counted."""
    head = ("layers", "in", "number", "of the time", "of the multiplications", "GOP/s", "of the peak")
    return [(_profile_words(one), (head, *map(_kind, one.kinds))) for one in profiles if one.layers_s is not None]


def results_text(results: Results) -> str:
    """All that was measured, for a terminal."""
    parts = [implementations_text(results)]
    parts += [profiles_text(results.profiles)] if results.profiles else []
    parts += [] if results.threads is None else [threads_text(results.threads)]
    return "\n\n".join(parts)


def threads_table(threads: Threads) -> Table:
    """One frame by more and more threads, then frames side by side."""
    head = ("frames at once", "threads of each", "until all are done", "frames/s", "time a frame / one by all cores")
    return head, *(
        (str(one.at_once), str(one.threads), _p50(one.latency), f"{one.frames_per_s:.2f}", _ratio(one.time_per_frame))
        for one in threads.points
    )


def threads_text(threads: Threads) -> str:
    """The same for a terminal, or why there is nothing."""
    why = threads.not_run
    return as_text(threads_table(threads)) if why is None else f"threads of {threads.backend}: not run: {why}"


def profiles_text(profiles: Sequence[Profile]) -> str:
    """The profiles for a terminal, then those that were not run."""
    told = [f"{title}\n{as_text(table)}\n" for title, table in profile_tables(profiles)]
    return "\n".join([*told, *profiles_not_run(profiles)])


def profiles_not_run(profiles: Sequence[Profile]) -> list[str]:
    """What was not profiled, and why."""
    return [f"{one.backend}: not run: {one.not_run}" for one in profiles if one.not_run is not None]


def _profile_words(profile: Profile) -> str:
    peaks = " and ".join(f"{peak:.0f} GOP/s in {precision}" for precision, peak in profile.peak_gops.items())
    layers = _ms(profile.layers_s or 0.0)
    return (
        f"{profile.backend}: {profile.multiplications / 1e9:.1f} G multiplications and {layers} of layers a frame; "
        f"a matrix product reaches {peaks}"
    )


def _kind(kind: KindOfLayer) -> tuple[str, ...]:
    return (
        kind.kind,
        kind.precision or NOTHING,
        str(kind.layers),
        f"{100 * kind.time_share:.1f} %",
        f"{100 * kind.work_share:.1f} %" if kind.work_share else NOTHING,
        NOTHING if kind.gops is None else f"{kind.gops:.1f}",
        NOTHING if kind.of_peak is None else f"{100 * kind.of_peak:.0f} %",
    )


def verdicts_text(verdicts: Sequence[Verdict]) -> str:
    """The verdict table for a terminal, without where the budgets come from."""
    return as_text(tuple((*line[:4], line[5]) for line in verdict_table(verdicts)))


def implementations_text(results: Results) -> str:
    """All figures for a terminal, then what was not run."""
    tables = [table(results.rows, results.runtime) for table in (speed_table, quality_table)]
    told = [as_text(table) + "\n" for table in tables if len(table) > 1]
    return "\n".join(told + not_run_lines(results.rows))


def as_text(table: Table) -> str:
    """Columns padded with spaces; the first and the last to the left, figures to the right."""
    widths = [max(len(line[number]) for line in table) for number in range(len(table[0]))]
    last = len(widths) - 1
    lines = []
    for line in table:
        cells = [
            cell.ljust(width) if number in (0, last) else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _status(verdict: Verdict) -> str:
    if verdict.status == "not run":
        return f"not run: {verdict.reason}"
    return "MISSED" if verdict.status == "missed" else "passed"


def _without_empty_columns(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    kept = [number for number in range(len(head)) if any(row[number] != NOTHING for row in rows)]
    return tuple(tuple(line[number] for number in kept) for line in (head, *rows))


def _name(row: Row, runtime: str | None) -> str:
    return f"{row.name} (the runtime's choice)" if row.name == runtime else row.name


def _speed(row: Row, runtime: str | None) -> tuple[str, ...]:
    rate = frames_per_s(row)
    return (
        _name(row, runtime),
        _p50(row.latency),
        _ms(row.latency.p95_s) if row.latency else NOTHING,
        _ms(row.latency.p99_s) if row.latency else NOTHING,
        f"{rate:.2f}" if rate else NOTHING,
        _seconds(row.first_frame_s),
        _seconds(row.open_s),
        _ratio(row.ratio_to_runtime),
        _ratio(row.ratio_to_paper),
    )


def _quality(row: Row, runtime: str | None) -> tuple[str, ...]:
    memory, truth = resident_peak_gb(row), row.truth
    return (
        _name(row, runtime),
        *_dice(row.agreement),
        NOTHING if truth is None else f"{truth.mean_dice:.4f}",
        NOTHING if truth is None or truth.mean_dice_with_cells is None else f"{truth.mean_dice_with_cells:.4f}",
        f"{memory:.2f} GB" if memory else NOTHING,
        _gpu_memory(row),
    )


def _dice(found: Agreement | None) -> tuple[str, ...]:
    if found is None:
        return (NOTHING,) * 4
    figures = (found.mean_dice, found.mean_dice_with_cells, found.mean_dice_without_cells, found.worst_dice)
    return tuple(NOTHING if figure is None else f"{figure:.6f}" for figure in figures)


def _gpu_memory(row: Row) -> str:
    if row.memory is None or row.memory.gpu_process_bytes is None:
        return NOTHING
    held = ", ".join(f"{name} {_mb(bytes_)}" for name, bytes_ in row.memory.allocators_bytes.items())
    return _mb(row.memory.gpu_process_bytes) + (f" ({held})" if held else "")


STAGE_WORDS = {
    "contract": "check the frame",
    "stage": "copy to page-locked memory",
    "upload": "host to device",
    "mask": "threshold on the device",
    "download": "device to host",
    "check": "check the answer",
}
"""The runtime's names (`result.STAGES`), where others say more."""

KERNEL_STAGES = ("preprocess", "network", "mask")
"""Stages that a backend on a GPU times on the device."""


def _kernels(row: Row) -> str:
    if not row.on_gpu:
        return NOTHING
    return _ms(sum(row.stages_s.get(stage, 0.0) for stage in KERNEL_STAGES))


def _p50(latency: Distribution | None) -> str:
    return _ms(latency.p50_s) if latency else NOTHING


def _ms(seconds: float) -> str:
    """Three significant digits are enough for anything that was measured by a clock on a shared machine."""
    ms = seconds * 1000
    return f"{ms:.0f} ms" if ms >= 100 else f"{ms:.1f} ms" if ms >= 10 else f"{ms:.2f} ms"


def _seconds(seconds: float | None) -> str:
    return NOTHING if seconds is None else f"{seconds:.2f} s"


def _ratio(ratio: Ratio | None) -> str:
    if ratio is None:
        return NOTHING
    return f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


def _mb(bytes_: int | None) -> str:
    return NOTHING if bytes_ is None else f"{bytes_ / 1e6:,.0f} MB"
