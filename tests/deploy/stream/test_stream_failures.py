"""A stream whose segmenter or callback fails goes on, and reports it."""

from __future__ import annotations

import gc
import logging
from typing import Any

import numpy as np
import pytest
from streamed import FRAME, LONG_S, accounted, answer, ids

from breastseg_deploy import ClosedError, Delivered, Dropped, Failed, FrameError
from breastseg_deploy.events import Event, Submission
from breastseg_deploy.result import Segmentation
from breastseg_deploy.stream import Stream


def test_a_frame_that_fails_is_reported_and_the_next_is_computed() -> None:
    def segment(frame: Any) -> Segmentation:
        if not frame.any():
            raise FrameError("a black frame")
        return answer(frame)

    with Stream(segment) as stream:
        for frame in (FRAME, np.zeros_like(FRAME), FRAME):
            stream.submit(frame)
        stream.finish()
        first, failed, last = stream
    assert isinstance(failed, Failed)
    assert str(failed.error) == "a black frame"
    assert (first.id, failed.id, last.id) == (0, 1, 2)
    assert stream.snapshot().failed == 1


@pytest.mark.parametrize("error", [MemoryError, SystemExit, KeyboardInterrupt])
def test_whatever_a_call_raises_the_stream_goes_on(error: type[BaseException]) -> None:
    outcomes = iter([error(), answer(FRAME)])

    def segment(_: Any) -> Segmentation:
        outcome = next(outcomes)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    with Stream(segment) as stream:
        stream.submit(FRAME)
        stream.submit(FRAME)
        stream.finish()
        assert [type(event) for event in stream] == [Failed, Delivered]


def test_a_failure_holds_no_frame() -> None:
    class Big(np.ndarray[Any, Any]):
        alive = 0

        def __array_finalize__(self, _: object) -> None:
            Big.alive += 1

        def __del__(self) -> None:
            Big.alive -= 1

    def segment(frame: Any) -> Segmentation:
        copy = frame.copy()
        raise ValueError(copy.shape)

    with Stream(segment) as stream:
        stream.submit(np.zeros((2, 2), np.uint8).view(Big))
        event = stream.take(LONG_S)
        gc.collect()
        assert isinstance(event, Failed)
        assert Big.alive == 0


def test_a_callback_that_raises_is_logged_and_counted_and_gets_the_next_event(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[object] = []

    def callback(event: Event) -> None:
        seen.append(event.id)
        raise RuntimeError("the display is gone")

    with caplog.at_level(logging.ERROR, "breastseg_deploy"), Stream(answer, callback=callback) as stream:
        stream.submit(FRAME)
        stream.submit(FRAME)
    assert seen == [0, 1]
    assert (stream.snapshot().callback_errors, stream.snapshot().delivered) == (2, 2)
    assert "the callback of a stream failed on frame 0; the stream goes on" in caplog.text


def test_a_callback_may_submit_without_waiting_for_itself() -> None:
    answers: list[Submission] = []
    stream: Stream

    def callback(event: Event) -> None:
        if len(answers) < 10:
            answers.append(stream.submit(FRAME))
            answers.append(stream.submit(FRAME))

    with Stream(answer, "block", depth=1, patience_s=None, callback=callback) as stream:
        stream.submit(FRAME)
    counts = stream.snapshot()
    assert accounted(counts) == counts.submitted == 1 + len(answers)


def test_a_lost_device_ends_the_stream_and_every_frame_is_reported() -> None:
    def segment(_: Any) -> Segmentation:
        raise ClosedError("the GPU failed for good")

    with Stream(segment, depth=3) as stream:
        answers = [stream.submit(FRAME) for _ in range(6)]
        events = list(stream)
    assert ids(events) == ids(filter(None, answers))
    assert isinstance(events[0], Failed)
    assert {event.reason for event in events if isinstance(event, Dropped)} <= {"lost"}
    assert stream.submit(FRAME).refused == "lost"
