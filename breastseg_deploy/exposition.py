"""The counters of a stream for others: as plain values for JSON, and as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from breastseg_deploy.events import Snapshot
from breastseg_deploy.latency import LatencyFigures


def plain(counts: Snapshot) -> dict[str, Any]:
    """The counters as JSON holds them, seconds to the microsecond."""
    found = asdict(counts) | {"in_flight": counts.in_flight}
    for name in ("latency", "wait"):
        found[name] = {key: round(value, 6) for key, value in found[name].items()}
    return found


def prometheus_text(counts: Snapshot, further: Mapping[str, int]) -> str:
    """The counters in Prometheus's text format (version 0.0.4), for its node exporter's textfile collector.

    Args:
        counts: of the stream.
        further: other counters, by outcome; they become `breastseg_files_total`.
    """
    return "\n".join(_lines(counts, further)) + "\n"


def _lines(counts: Snapshot, further: Mapping[str, int]) -> Iterator[str]:
    yield from _counter("frames_submitted", "Frames that were handed in.", {"": counts.submitted})
    yield from _counter("frames_delivered", "Frames whose result was handed over.", {"": counts.delivered})
    yield from _counter("frames_failed", "Frames whose call failed.", {"": counts.failed})
    yield from _counter("frames_dropped", "Accepted frames without a result.", _labelled("reason", counts.dropped))
    yield from _counter("frames_refused", "Frames that were not accepted.", _labelled("reason", counts.refused))
    yield from _counter("callback_errors", "Times that the callback raised.", {"": counts.callback_errors})
    yield from _counter("files", "Files by what became of them.", _labelled("outcome", further))
    states = {"waiting": counts.waiting, "computing": counts.computing, "untaken": counts.untaken}
    yield from _metric("frames_in_flight", "gauge", "Accepted frames on their way.", _labelled("state", states))
    yield from _summary("latency_seconds", "From acquisition to delivery.", counts.latency)
    yield from _summary("wait_seconds", "From submission until the inference began.", counts.wait)


def _counter(name: str, help_text: str, values: Mapping[str, int]) -> Iterator[str]:
    yield from _metric(f"{name}_total", "counter", help_text, values)


def _summary(name: str, help_text: str, figures: LatencyFigures) -> Iterator[str]:
    quantiles = {
        '{quantile="0.5"}': figures.p50_s,
        '{quantile="0.95"}': figures.p95_s,
        '{quantile="0.99"}': figures.p99_s,
    }
    yield from _metric(name, "summary", help_text, quantiles)
    yield f"breastseg_{name}_sum {figures.sum_s:.6f}"
    yield f"breastseg_{name}_count {figures.count}"
    yield from _metric(f"{name}_max", "gauge", f"{help_text[:-1]}, the longest.", {"": figures.max_s})


def _metric(name: str, kind: str, help_text: str, values: Mapping[str, float]) -> Iterator[str]:
    yield f"# HELP breastseg_{name} {help_text}"
    yield f"# TYPE breastseg_{name} {kind}"
    for labels, value in values.items():
        yield (
            f"breastseg_{name}{labels} {value:.6f}" if isinstance(value, float) else f"breastseg_{name}{labels} {value}"
        )


def _labelled(label: str, values: Mapping[str, int]) -> dict[str, int]:
    return {f'{{{label}="{name}"}}': count for name, count in values.items()}
