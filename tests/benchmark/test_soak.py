"""The soak's short form: what must hold at any length. Memory is left to `make soak`: few frames do not show growth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from breastseg_benchmark.soak import Growth, StreamSoak, passed, soak_opening, soak_stream, soak_threads
from breastseg_deploy.accounts import POLICIES, Policy
from breastseg_deploy.segmenter import Segmenter


@pytest.mark.parametrize("policy", POLICIES)
def test_every_frame_of_an_overload_is_accounted_for(demo_bundle: Path, policy: Policy) -> None:
    with Segmenter.open(demo_bundle, "onnxruntime") as segmenter:
        found = soak_stream(segmenter, policy, 60, depth=3)
    assert found.frames == found.delivered + found.dropped + found.refused == 60
    assert (found.failed, found.unbalanced) == (0, 0)
    assert found.delivered == 60 or policy != "block"
    assert found.dropped == 0 or policy in ("drop_oldest", "latest")
    assert found.refused == 0 or policy == "reject"


def test_threads_get_the_serial_masks(demo_bundle: Path) -> None:
    with Segmenter.open(demo_bundle, "onnxruntime") as segmenter:
        found = soak_threads(segmenter, 60)
    assert (found.wrong, found.threads, found.open_files) == (0, 0, 0)


def test_opening_and_closing_leaves_no_thread_and_no_open_file(demo_bundle: Path) -> None:
    found = soak_opening(demo_bundle, "onnxruntime", 10)
    assert (found.wrong, found.threads, found.open_files) == (0, 0, 0)


STREAM = StreamSoak("latest", 8, 9, 9, 0, 0, 0, 1.0, 0, 0.1, 0.1, 0.5, 0.1, 0.9, 0)
GROWTH = Growth("calls", 10, 1.0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    "bad",
    [
        replace(STREAM, grown_bytes=5_000_001),
        replace(STREAM, unbalanced=1),
        replace(STREAM, failed=1),
        replace(STREAM, longest_age_s=1.0),
        replace(GROWTH, grown_bytes=5_000_001),
        replace(GROWTH, threads=1),
        replace(GROWTH, open_files=1),
        replace(GROWTH, wrong=1),
    ],
)
def test_a_soak_fails_by_each_of_its_limits(bad: StreamSoak | Growth) -> None:
    assert passed(STREAM)
    assert passed(GROWTH)
    assert not passed(bad)


def test_a_lossless_policy_has_no_limit_of_age() -> None:
    assert passed(replace(STREAM, policy="block", longest_age_s=1.0))
