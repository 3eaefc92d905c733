"""Streams with their threads: what goes in, what comes out, and that nothing ever waits for ever."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from typing import Any

import numpy as np
import pytest
from streamed import FRAME, LONG_S, Gate, answer, ids

from breastseg_deploy import ArgumentError, Delivered, Dropped
from breastseg_deploy.accounts import Policy
from breastseg_deploy.result import Segmentation
from breastseg_deploy.stream import Stream


def test_results_come_in_order_with_id_mask_timings_and_age() -> None:
    with Stream(answer) as stream:
        for number in range(5):
            assert stream.submit(np.full((2, 2), number, np.uint8), id=f"frame {number}")
        stream.finish()
        events = list(stream)
    assert ids(events) == [f"frame {number}" for number in range(5)]
    for number, event in enumerate(events):
        assert isinstance(event, Delivered)
        np.testing.assert_array_equal(event.mask, np.full((2, 2), number))
        assert event.timings == {"total": 0.0}
        assert 0 <= event.waited_s <= event.age_s < LONG_S


def test_without_an_id_a_frame_has_its_number() -> None:
    with Stream(answer) as stream:
        answers = [stream.submit(FRAME) for _ in range(3)]
        stream.finish()
        assert ids(stream) == ids(answers) == [0, 1, 2]


def test_a_camera_may_fill_its_buffer_again_at_once() -> None:
    gate, buffer = Gate(), FRAME.copy()
    with Stream(gate) as stream:
        stream.submit(buffer)
        buffer[:] = 255
        gate.permits.release()
        event = stream.take(LONG_S)
        assert isinstance(event, Delivered)
        np.testing.assert_array_equal(event.mask, FRAME)


@pytest.mark.parametrize("calls", [1, 2, 4])
def test_results_are_in_order_however_many_calls_run_at_once(calls: int) -> None:
    chance = random.Random(7)
    pauses = [chance.choice([0, 0.001, 0.004]) for _ in range(60)]

    def segment(frame: Any) -> Segmentation:
        threading.Event().wait(pauses[int(frame[0, 0])])
        return answer(frame)

    found: list[object] = []
    with Stream(segment, calls=calls, callback=lambda event: found.append(event.id)) as stream:
        for number in range(60):
            stream.submit(np.full((1, 1), number, np.uint8))
    assert found == list(range(60))


def test_two_calls_are_under_way_at_once() -> None:
    gate = Gate()
    with Stream(gate, calls=2) as stream:
        stream.submit(FRAME)
        stream.submit(FRAME)
        gate.wait_until_entered()
        gate.wait_until_entered()
        assert stream.snapshot().computing == 2
        gate.permits.release(2)
        stream.finish()
        assert ids(stream) == [0, 1]


def test_block_waits_for_a_place_and_loses_nothing() -> None:
    numbers = range(50)
    with Stream(answer, "block", depth=2) as stream:
        producer = threading.Thread(target=lambda: [stream.submit(FRAME) for _ in numbers] and stream.finish())
        producer.start()
        assert ids(stream) == list(numbers)
        producer.join(LONG_S)
        assert (stream.snapshot().delivered, stream.snapshot().refused) == (50, {})


def test_block_in_one_thread_that_takes_nothing_is_refused_and_not_stuck() -> None:
    with Stream(answer, "block", depth=2, patience_s=0.05) as stream:
        answers = [stream.submit(FRAME) for _ in range(20)]
        assert answers[-1].refused == "full"
        stream.finish()
        assert ids(stream) == ids(filter(None, answers))


@pytest.mark.parametrize("policy", ["reject", "drop_oldest", "latest"])
def test_submit_answers_at_once_while_the_engine_is_busy(policy: Policy) -> None:
    gate = Gate()
    with Stream(gate, policy, depth=2) as stream:
        stream.submit(FRAME)
        gate.wait_until_entered()
        began = time.monotonic()
        for _ in range(100):
            stream.submit(FRAME)
        assert time.monotonic() - began < LONG_S / 2
        counts = stream.snapshot()
        assert counts.waiting == (1 if policy == "latest" else 2)
        assert sum(counts.refused.values()) + sum(counts.dropped.values()) == 100 - counts.waiting
        gate.permits.release(3)


def test_every_dropped_id_is_reported_in_the_stream() -> None:
    gate = Gate()
    with Stream(gate, "drop_oldest", depth=1) as stream:
        stream.submit(FRAME, id="computed")
        gate.wait_until_entered()
        for one in "abc":
            stream.submit(FRAME, id=one)
        stream.finish()
        gate.permits.release(2)
        events = list(stream)
    assert [(event.id, type(event)) for event in events] == [
        ("a", Dropped), ("b", Dropped), ("computed", Delivered), ("c", Delivered),
    ]  # fmt: skip


def test_a_deadline_drops_frames_by_the_streams_clock() -> None:
    now = [50.0]
    gate = Gate()
    with Stream(gate, deadline_s=1.0, clock=lambda: now[0]) as stream:
        stream.submit(FRAME, id="computed")
        gate.wait_until_entered()
        stream.submit(FRAME, id="late", acquired_at=49.5)
        stream.submit(FRAME, id="fresh")
        now[0] = 50.6
        gate.permits.release(2)
        stream.finish()
        assert [(event.id, type(event)) for event in stream] == [
            ("computed", Delivered), ("late", Dropped), ("fresh", Delivered),
        ]  # fmt: skip


def test_a_clock_that_is_set_back_stops_nothing_and_makes_no_negative_age() -> None:
    now = [1000.0]
    gate = Gate()
    with Stream(gate, deadline_s=5.0, clock=lambda: now[0]) as stream:
        stream.submit(FRAME, id="before")
        gate.wait_until_entered()
        now[0] = 10.0
        assert stream.submit(FRAME, id="after")
        assert stream.submit(FRAME, acquired_at=1000.0).refused == "clock"
        gate.permits.release(2)
        stream.finish()
        events = list(stream)
    assert ids(events) == ["before", "after"]
    assert all(event.age_s >= 0 for event in events)


def test_wall_clock_seconds_are_no_acquisition_time() -> None:
    with Stream(answer) as stream:
        assert stream.submit(FRAME, acquired_at=time.time() + 1e6).refused == "clock"


def test_async_for_gives_the_events_and_leaves_the_loop_free() -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.001)

    async def consume(stream: Stream) -> list[object]:
        beside = asyncio.create_task(tick())
        found = [event.id async for event in stream]
        beside.cancel()
        return found

    def slow(frame: Any) -> Segmentation:
        threading.Event().wait(0.01)
        return answer(frame)

    with Stream(slow) as stream:
        producer = threading.Thread(target=lambda: [stream.submit(FRAME) for _ in range(10)] and stream.finish())
        producer.start()
        assert asyncio.run(asyncio.wait_for(consume(stream), LONG_S)) == list(range(10))
        producer.join(LONG_S)
    assert ticks > 5


def test_a_cancelled_async_consumer_loses_no_event() -> None:
    gate = Gate()

    async def consume(stream: Stream) -> object:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(stream), 0.02)
        gate.permits.release()
        return (await asyncio.wait_for(anext(stream), LONG_S)).id

    with Stream(gate) as stream:
        stream.submit(FRAME, id="kept")
        assert asyncio.run(consume(stream)) == "kept"


def test_take_gives_up_in_time() -> None:
    with Stream(answer) as stream:
        assert stream.take(0.01) is None
        assert not stream.ended


def test_events_go_to_the_callback_alone() -> None:
    with (
        Stream(answer, callback=lambda _: None) as stream,
        pytest.raises(ArgumentError, match="go to its callback; omit the callback to iterate"),
    ):
        next(stream)


def test_a_number_of_calls_that_is_none_is_refused() -> None:
    with pytest.raises(ArgumentError, match="calls must be a whole number from 1 up, got 0"):
        Stream(answer, calls=0)
