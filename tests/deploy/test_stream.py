"""Streams with their threads: what goes in, what comes out, and that nothing ever waits for ever."""

from __future__ import annotations

import asyncio
import gc
import logging
import multiprocessing
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from breastseg_deploy import ArgumentError, BackendError, ClosedError, Delivered, Dropped, Failed, FrameError, Segmenter
from breastseg_deploy.accounts import POLICIES, Policy
from breastseg_deploy.events import Event, Snapshot, Submission
from breastseg_deploy.phantom import phantom_frame
from breastseg_deploy.result import Segmentation
from breastseg_deploy.stream import Stream

LONG_S = 20.0
"""What no step of these tests takes unless something waits for ever."""
FRAME = np.arange(16, dtype=np.uint8).reshape(4, 4)


def answer(frame: Any) -> Segmentation:
    return Segmentation(np.asarray(frame), None, {"total": 0.0}, "made up")


class Gate:
    """A segmenter that stays in its call until it is let through, one frame for each permit."""

    def __init__(self) -> None:
        self.entered, self.permits = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, frame: Any) -> Segmentation:
        self.entered.release()
        assert self.permits.acquire(timeout=LONG_S)
        return answer(frame)

    def wait_until_entered(self) -> None:
        assert self.entered.acquire(timeout=LONG_S)


def accounted(counts: Snapshot) -> int:
    return (
        counts.delivered
        + sum(counts.dropped.values())
        + sum(counts.refused.values())
        + counts.failed
        + counts.in_flight
    )


def ids(events: Any) -> list[object]:
    return [event.id for event in events]


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    before = threading.active_count()
    yield
    deadline = time.monotonic() + LONG_S
    while threading.active_count() > before and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    assert threading.active_count() == before


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


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    policy=st.sampled_from(POLICIES),
    depth=st.integers(1, 3),
    calls=st.integers(1, 3),
    producers=st.integers(1, 3),
    consumers=st.integers(0, 2),
    with_callback=st.booleans(),
    deadline_s=st.none() | st.just(0.002),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_equation_holds_at_every_moment_whatever_producers_consumers_and_faults_do(
    policy: Policy,
    depth: int,
    calls: int,
    producers: int,
    consumers: int,
    with_callback: bool,
    deadline_s: float | None,
    seed: int,
) -> None:
    def pause(chance: random.Random) -> None:
        if chance.random() < 0.3:
            threading.Event().wait(chance.random() * 0.002)

    def segment(frame: Any) -> Segmentation:
        chance = random.Random(seed + int(frame[0, 0]))
        pause(chance)
        if chance.random() < 0.2:
            raise BackendError("this once") if chance.random() < 0.97 else ClosedError("for good")
        return answer(frame)

    events: list[Event] = []
    answers: list[Submission] = []

    def callback(event: Event) -> None:
        events.append(event)
        pause(random.Random(seed))
        if len(events) % 5 == 0:
            raise RuntimeError("a callback that fails")

    def produce(number: int) -> None:
        chance = random.Random(seed ^ number)
        for index in range(25):
            answers.append(stream.submit(np.full((1, 1), index, np.uint8), id=(number, index)))
            pause(chance)

    def consume(number: int) -> None:
        chance = random.Random(seed ^ (number + 99))
        for event in stream:
            events.append(event)
            pause(chance)

    log = logging.getLogger("breastseg_deploy")
    log.disabled = True
    stream = Stream(
        segment, policy, depth=depth, calls=calls, deadline_s=deadline_s, patience_s=0.01,
        callback=callback if with_callback else None,
    )  # fmt: skip
    works = [threading.Thread(target=produce, args=(number,)) for number in range(producers)]
    takers = [threading.Thread(target=consume, args=(n,)) for n in range(0 if with_callback else consumers)]
    for thread in works + takers:
        thread.start()
    while any(thread.is_alive() for thread in works):
        counts = stream.snapshot()
        assert accounted(counts) == counts.submitted
        assert counts.waiting <= depth
        assert counts.untaken <= depth + calls
    counts = stream.close(LONG_S if with_callback or consumers else 0.01)
    assert accounted(counts) == counts.submitted == len(answers) == 25 * producers
    for thread in takers:
        thread.join(LONG_S)
        assert not thread.is_alive()
    if not with_callback:
        events += list(stream)
    log.disabled = False
    assert sorted(map(str, ids(events))) == sorted(str(one.id) for one in answers if one)
    assert stream.snapshot().in_flight == 0


# With a Segmenter

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
