"""The drift watch: silent on frames like those of the fingerprint, loud on others, and without a say in any mask."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from breastseg_deploy.drift import DriftWatch
from breastseg_deploy.errors import ArgumentError, BundleError, FrameError
from breastseg_deploy.fingerprint import fingerprint, measure
from breastseg_deploy.manifest import Manifest
from breastseg_deploy.phantom import phantom_frame
from breastseg_deploy.result import Segmentation

SIZE = (64, 64)
WINDOW = 10
Frame = NDArray[np.uint8]


def pair(number: int, change: Callable[[Frame], Frame] = lambda frame: frame) -> tuple[Frame, Segmentation]:
    """A phantom, and an answer to it as a Segmenter might give it."""
    phantom = phantom_frame(number, SIZE)
    probability = np.where(phantom.mask == 1, 0.95, 0.01).astype(np.float32)
    return change(phantom.frame), Segmentation(phantom.mask, probability, {}, "made up")


@pytest.fixture(scope="module")
def manifest(demo_manifest: Manifest) -> Manifest:
    known = [(frame, answer.mask, answer.probability) for frame, answer in map(pair, range(60))]
    return demo_manifest.model_copy(update={"drift": fingerprint([measure(*one) for one in known])})


def fed(
    watch: DriftWatch, count: int, change: Callable[[Frame], Frame] = lambda frame: frame, start: int = 100
) -> None:
    for number in range(start, start + count):
        watch.feed(*pair(number, change))


def test_frames_like_those_of_the_export_are_no_drift(manifest: Manifest) -> None:
    watch = DriftWatch(manifest, window=WINDOW)
    fed(watch, 40)
    assert watch.summary() == {"windows": 31, "windows_outside": 0, "warnings": {}}


def test_nothing_is_judged_before_the_first_window_is_full(manifest: Manifest) -> None:
    watch = DriftWatch(manifest, window=WINDOW)
    fed(watch, WINDOW - 1, lambda frame: np.asarray(255 - frame, np.uint8))
    assert watch.windows == 0


DARKER: Callable[[Frame], Frame] = lambda frame: frame // 8  # noqa: E731


def test_a_drift_names_the_feature_its_value_and_its_limits(manifest: Manifest) -> None:
    watch = DriftWatch(manifest, window=WINDOW)
    fed(watch, WINDOW - 1, DARKER)
    found = {drift.feature: drift for drift in watch.feed(*pair(200, DARKER))}
    assert found["noise"].value < found["noise"].low < found["noise"].high
    assert str(found["noise"]).startswith("noise: noise (grey values) is ")
    assert f"expected {found['noise'].low:.4g} to {found['noise'].high:.4g}" in str(found["noise"])


def test_every_window_outside_is_counted_and_told_once(manifest: Manifest, caplog: pytest.LogCaptureFixture) -> None:
    watch = DriftWatch(manifest, window=WINDOW)
    with caplog.at_level(logging.WARNING, "breastseg_deploy"):
        fed(watch, WINDOW + 4, DARKER)
    assert watch.warnings["noise"] == watch.windows_outside == watch.windows == 5
    told = [record.getMessage() for record in caplog.records if ": noise: " in record.getMessage()]
    assert len(told) == 1
    assert told[0].startswith(f"the last {WINDOW} frames are unlike those of the export: noise: ")


def test_a_drift_ends_with_the_last_of_its_frames_and_a_later_one_is_told_again(
    manifest: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    watch = DriftWatch(manifest, window=WINDOW)
    with caplog.at_level(logging.WARNING, "breastseg_deploy"):
        for change in (DARKER, lambda frame: frame, DARKER):
            fed(watch, 2 * WINDOW, change)
    told = [record.getMessage() for record in caplog.records if ": median: " in record.getMessage()]
    assert len(told) >= 2
    assert watch.windows_outside < watch.windows


def test_a_watch_leaves_frame_and_answer_as_they_are(manifest: Manifest) -> None:
    watch = DriftWatch(manifest, window=WINDOW)
    for number in range(2 * WINDOW):
        frame, answer = pair(number, DARKER)
        before = frame.copy(), answer.mask.copy()
        watch.feed(frame, answer)
        np.testing.assert_array_equal(frame, before[0])
        np.testing.assert_array_equal(answer.mask, before[1])


def test_answers_without_probabilities_are_watched_by_all_else(manifest: Manifest) -> None:
    watch = DriftWatch(manifest, window=WINDOW)
    for number in range(WINDOW):
        frame, answer = pair(number)
        watch.feed(frame, Segmentation(answer.mask, None, {}, "made up"))
    assert watch.windows == 1


def test_many_threads_may_feed_one_watch(manifest: Manifest) -> None:
    watch = DriftWatch(manifest, window=WINDOW)
    threads = [threading.Thread(target=fed, args=(watch, 20)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert watch.windows == 8 * 20 - WINDOW + 1


def test_a_bundle_without_a_fingerprint_cannot_be_watched(demo_manifest: Manifest) -> None:
    with pytest.raises(BundleError, match="holds no fingerprint of frames to compare with; export it again with --fr"):
        DriftWatch(demo_manifest)


@pytest.mark.parametrize(("window", "limit"), [(7, 4.0), (32, 0.0), (32, -1.0), (32, float("nan"))])
def test_a_watch_that_could_judge_nothing_is_refused(manifest: Manifest, window: int, limit: float) -> None:
    with pytest.raises(ArgumentError, match="windows from 8 frames on and limits over 0"):
        DriftWatch(manifest, window=window, limit=limit)


def test_a_16_bit_frame_is_refused_and_not_watched(manifest: Manifest) -> None:
    watch = DriftWatch(manifest, window=WINDOW)
    frame, answer = pair(0)
    with pytest.raises(FrameError, match=r"bring the frame to 8 bits by contract\.rgb_frame first"):
        watch.feed(frame.astype(np.uint16), answer)  # type: ignore[arg-type]
    assert watch.windows == 0
