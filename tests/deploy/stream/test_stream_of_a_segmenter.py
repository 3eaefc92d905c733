"""Streams of a real Segmenter: the masks of its calls, its refusals, and other processes."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from streamed import LONG_S

from breastseg_deploy import Delivered, Failed, FrameError, Segmenter
from breastseg_deploy.accounts import POLICIES, Policy
from breastseg_deploy.phantom import phantom_frame

SIDE = 128


@pytest.fixture(scope="module")
def segmenter(demo_bundle: Path) -> Iterator[Segmenter]:
    with Segmenter.open(demo_bundle, "onnxruntime") as opened:
        yield opened


def phantom(number: int) -> NDArray[np.uint8]:
    return phantom_frame(number, (SIDE, SIDE)).frame


@pytest.mark.parametrize("policy", POLICIES)
def test_a_streams_masks_are_those_of_calls(segmenter: Segmenter, policy: Policy) -> None:
    with segmenter.stream(policy, depth=8, probability=False) as stream:
        for number in range(4):
            stream.submit(phantom(number))
        stream.finish()
        for event in stream:
            if isinstance(event, Delivered):
                assert isinstance(event.id, int)
                np.testing.assert_array_equal(event.mask, segmenter(phantom(event.id)).mask)
                assert event.segmentation.probability is None
                assert event.timings["total"] > 0


def test_bit_depth_and_full_scale_reach_every_frame(segmenter: Segmenter) -> None:
    expected = segmenter(phantom(0)).mask
    deep = np.rint(phantom(0) / 255 * 4095).astype(np.uint16)
    light = (phantom(0) / 255).astype(np.float32)
    for frame, words in ((deep, {"bit_depth": 12}), (light, {"full_scale": 1.0})):
        with segmenter.stream(**words) as stream:  # type: ignore[arg-type]
            stream.submit(frame)
            event = stream.take(LONG_S)
            assert isinstance(event, Delivered)
            np.testing.assert_array_equal(event.mask, expected)


def test_a_frame_that_breaks_the_contract_is_a_failure_with_its_sentence(segmenter: Segmenter) -> None:
    with segmenter.stream() as stream:
        stream.submit(np.zeros((3, 3), np.uint8))
        event = stream.take(LONG_S)
    assert isinstance(event, Failed)
    assert isinstance(event.error, FrameError)
    assert "never resized" in str(event.error)


def test_a_segmenter_that_is_closed_ends_its_streams(demo_bundle: Path) -> None:
    segmenter = Segmenter.open(demo_bundle, "onnxruntime")
    with segmenter.stream() as stream:
        segmenter.close()
        stream.submit(phantom(0))
        (event,) = stream
    assert isinstance(event, Failed)
    assert "this Segmenter is closed" in str(event.error)


FORKED = """
import os, sys, threading
import numpy as np
from breastseg_deploy import Segmenter
from breastseg_deploy.errors import BackendError

segment = Segmenter.open(sys.argv[1], "onnxruntime")
stream = segment.stream()
frame = np.zeros((128, 128), np.uint8)
segment(frame)
child = os.fork()
if child == 0:
    for use in (lambda: segment(frame), lambda: stream.submit(frame), stream.take, stream.snapshot, segment.self_test):
        try:
            use()
            os._exit(1)
        except BackendError as err:
            print(err, flush=True)
    stream.close()
    segment.close()
    os._exit(0)
_, status = os.waitpid(child, 0)
assert stream.submit(frame)
assert stream.take(20).mask.shape == (128, 128)
stream.close()
segment.close()
print("parent", os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_after_a_fork_the_child_is_refused_with_a_sentence_and_the_parent_goes_on(demo_bundle: Path) -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED, str(demo_bundle)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    *refusals, parent = done.stdout.splitlines()
    assert (parent, done.stderr) == ("parent 0", "")
    assert len(refusals) == 5
    assert all("fork has none" in line and "open the bundle in the process that uses it" in line for line in refusals)


def test_a_spawned_process_opens_the_bundle_for_itself(demo_bundle: Path) -> None:
    with Segmenter.open(demo_bundle, "onnxruntime") as segment:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found = pool.apply(_in_a_process_of_its_own, (demo_bundle,))
        np.testing.assert_array_equal(found, segment(phantom(0)).mask)


def _in_a_process_of_its_own(bundle: Path) -> NDArray[np.uint8]:
    with Segmenter.open(bundle, "onnxruntime") as segment:
        return segment(phantom(0)).mask
