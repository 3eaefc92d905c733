"""The end of a stream: bounded in time, and every frame accounted for."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
from streamed import FRAME, LONG_S, Gate, accounted, answer, ids

from breastseg_deploy import Delivered, Dropped
from breastseg_deploy.result import Segmentation
from breastseg_deploy.stream import Stream


def test_a_blocked_producer_is_let_go_when_the_stream_closes() -> None:
    gate, answers = Gate(), []
    with Stream(gate, "block", depth=1, patience_s=None) as stream:
        stream.submit(FRAME)
        gate.wait_until_entered()
        stream.submit(FRAME)
        producer = threading.Thread(target=lambda: answers.append(stream.submit(FRAME)))
        producer.start()
        stream.close(0.05)
        producer.join(LONG_S)
        assert [one.refused for one in answers] == ["closed"]
        gate.permits.release()


def test_a_callback_may_close_its_stream() -> None:
    with Stream(answer, callback=lambda _: stream.close()) as stream:
        stream.submit(FRAME)
        stream.submit(FRAME)
    counts = stream.snapshot()
    assert (accounted(counts), counts.in_flight) == (counts.submitted, 0)


def test_closing_is_bounded_where_callback_and_engine_never_return() -> None:
    stuck = threading.Event()

    def segment(frame: Any) -> Segmentation:
        if frame[0, 0] == 1:
            stuck.wait(LONG_S)
        return answer(frame)

    stream = Stream(segment, callback=lambda _: stuck.wait(LONG_S))
    for number in range(4):
        stream.submit(np.full((1, 1), number, np.uint8))
    while stream.snapshot().computing != 1 or stream.snapshot().delivered != 1:
        threading.Event().wait(0.001)
    began = time.monotonic()
    counts = stream.close(0.2)
    assert time.monotonic() - began < 5
    assert counts.dropped == {"closed": 2}
    assert accounted(counts) == counts.submitted == 4
    stuck.set()


def test_leaving_the_block_works_off_what_was_accepted() -> None:
    seen: list[object] = []
    with Stream(answer, callback=lambda event: seen.append(event.id)) as stream:
        for _ in range(20):
            stream.submit(FRAME)
    assert seen == list(range(20))


def test_leaving_the_block_by_an_error_drops_what_waits_at_once() -> None:
    gate = Gate()
    stream = Stream(gate)
    for _ in range(5):
        stream.submit(FRAME)
    gate.wait_until_entered()
    with pytest.raises(ZeroDivisionError), stream:
        raise ZeroDivisionError
    assert stream.snapshot().dropped == {"closed": 4}
    gate.permits.release()
    assert [type(event) for event in stream] == [Dropped] * 4 + [Delivered]


def test_after_closing_untaken_results_can_be_taken_and_frames_are_refused() -> None:
    stream = Stream(answer)
    stream.submit(FRAME)
    counts = stream.close()
    assert counts.untaken == 1
    assert stream.submit(FRAME).refused == "closed"
    assert ids(stream) == [0]
    assert stream.ended
    assert stream.close().in_flight == 0
