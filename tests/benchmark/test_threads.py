"""Threads and frames side by side: which settings are tried, and what is said of them."""

from __future__ import annotations

import numpy as np
import pytest
from made_up import results

from breastseg_benchmark.report import report_html
from breastseg_benchmark.results import Distribution, Ratio, SideBySide, Threads
from breastseg_benchmark.tables import threads_table, threads_text
from breastseg_benchmark.threads import settings_for, threads_of
from breastseg_deploy.backends.openvino_library import load_openvino


@pytest.mark.parametrize(
    ("cores", "settings"),
    [
        (1, [(1, 1)]),
        (2, [(1, 1), (1, 2), (2, 1)]),
        (6, [(1, 1), (1, 2), (1, 4), (1, 6), (3, 2), (6, 1)]),
        (16, [(1, 1), (1, 2), (1, 4), (1, 8), (1, 16), (8, 2), (16, 1)]),
    ],
)
def test_one_frame_by_more_and_more_threads_then_streams_of_two_cores_and_of_one(
    cores: int, settings: list[tuple[int, int]]
) -> None:
    assert settings_for(cores) == settings


def test_each_setting_is_held_to_one_frame_by_all_cores() -> None:
    ov = load_openvino()
    ops = ov.opset13
    read = ops.parameter([1, 4, 16, 16], ov.Type.f32)
    network = ov.Model([ops.relu(read)], [read], "tiny")
    found = threads_of(ov.Core(), network, [np.ones((1, 4, 16, 16), np.float32)], rounds=3, cores=2)
    assert [(one.at_once, one.threads) for one in found.points] == [(1, 1), (1, 2), (2, 1)]
    assert {len(one.latency.seconds) for one in found.points} == {3}
    assert found.points[1].time_per_frame.median == 1


def test_the_table_and_the_report_say_what_frames_side_by_side_gain() -> None:
    latency = Distribution.of([0.5])
    point = SideBySide(at_once=2, threads=1, latency=latency, frames_per_s=4.0, time_per_frame=Ratio.of([0.25], [0.3]))
    found = Threads(backend="openvino", cores=2, points=(point,))
    assert threads_table(found)[1] == ("2", "1", "500 ms", "4.00", "0.83 (0.83 to 0.83)")
    page = report_html(results(threads=found))
    assert "Frames side by side share the weights" in page
    missing = Threads(backend="openvino", not_run="openvino is not installed")
    assert threads_text(missing) == "threads of openvino: not run: openvino is not installed"
    assert "not run: openvino is not installed" in report_html(results(threads=missing))
