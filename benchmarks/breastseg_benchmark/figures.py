"""The figures of an implementation that a budget or a table can name: where they stand, and how they are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from breastseg_benchmark.results import Row

_GB = 1e9


@dataclass(frozen=True)
class Figure:
    """A figure.

    Attributes:
        of: finds it in a row; None where it was not measured.
        text: a format for it, with its unit.
        absolute: whether it depends on how busy the machine is.
    """

    of: Callable[[Row], float | None]
    text: str
    absolute: bool = False


def frames_per_s(row: Row) -> float | None:
    """One frame at a time, by the median."""
    return None if row.latency is None else 1 / row.latency.p50_s


def p99_ms(row: Row) -> float | None:
    """The 99th percentile of the latency in milliseconds."""
    return None if row.latency is None else row.latency.p99_s * 1000


def resident_peak_gb(row: Row) -> float | None:
    """The most that lay in the host's memory, in 10^9 bytes."""
    return None if row.memory is None else _scaled(row.memory.resident_peak_bytes)


def gpu_process_gb(row: Row) -> float | None:
    """What the process held of the GPU, in 10^9 bytes."""
    return None if row.memory is None else _scaled(row.memory.gpu_process_bytes)


def ratio_to_paper(row: Row) -> float | None:
    """Its time over that of the paper's pipeline, median over pairs."""
    return None if row.ratio_to_paper is None else row.ratio_to_paper.median


def ratio_to_runtime(row: Row) -> float | None:
    """Its time over that of the backend that the runtime chooses by itself, median over pairs."""
    return None if row.ratio_to_runtime is None else row.ratio_to_runtime.median


def _dice(name: str) -> Callable[[Row], float | None]:
    return lambda row: None if row.agreement is None else getattr(row.agreement, name)


def _scaled(bytes_: int | None) -> float | None:
    return None if bytes_ is None else bytes_ / _GB


FIGURES: Mapping[str, Figure] = {
    "frames_per_s": Figure(frames_per_s, "{:.2f} frames/s", absolute=True),
    "p99_ms": Figure(p99_ms, "{:.1f} ms", absolute=True),
    "first_frame_s": Figure(lambda row: row.first_frame_s, "{:.2f} s", absolute=True),
    "open_s": Figure(lambda row: row.open_s, "{:.1f} s", absolute=True),
    "resident_peak_gb": Figure(resident_peak_gb, "{:.2f} GB"),
    "gpu_process_gb": Figure(gpu_process_gb, "{:.2f} GB"),
    "ratio_to_paper": Figure(ratio_to_paper, "{:.3f} x"),
    "ratio_to_runtime": Figure(ratio_to_runtime, "{:.3f} x"),
    "mean_dice": Figure(_dice("mean_dice"), "{:.6f}"),
    "worst_dice": Figure(_dice("worst_dice"), "{:.6f}"),
    "mean_dice_with_cells": Figure(_dice("mean_dice_with_cells"), "{:.6f}"),
    "mean_dice_without_cells": Figure(_dice("mean_dice_without_cells"), "{:.6f}"),
}

MEMORY_GROWTH = "memory_growth_mb"
"""A figure of the backend whose growth was measured; see `results.MemoryGrowth`."""

MEMORY_GROWTH_TEXT = "{:.1f} MB"
OTHER_TEXT = "{:.2f}"
"""For figures of `Results.extra`."""


def text_of(figure: str) -> str:
    """The format of a figure by its name."""
    if figure == MEMORY_GROWTH:
        return MEMORY_GROWTH_TEXT
    return FIGURES[figure].text if figure in FIGURES else OTHER_TEXT
