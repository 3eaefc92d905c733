"""The equation of the counters over a real stream: every way to take events, and an end that comes at any moment."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from breastseg_deploy.accounts import POLICIES, Policy
from breastseg_deploy.errors import BackendError, ClosedError
from breastseg_deploy.events import Event, Snapshot, Submission
from breastseg_deploy.result import Segmentation
from breastseg_deploy.stream import Stream

LONG_S = 60
FRAMES = 20
MASK = Segmentation(np.zeros((1, 1), np.uint8), None, {}, "made up")


def ended(counts: Snapshot) -> int:
    return counts.delivered + sum(counts.dropped.values()) + sum(counts.refused.values()) + counts.failed


class Play:
    """Producers, consumers and whoever closes, around one stream; what each of them saw."""

    def __init__(self, seed: int) -> None:
        self.seed, self.answers, self.events = seed, list[Submission](), list[Event]()

    def pause(self, chance: random.Random) -> None:
        if chance.random() < 0.3:
            time.sleep(chance.random() * 0.002)

    def segment(self, frame: Any) -> Segmentation:
        chance = random.Random(self.seed + int(frame[0, 0]))
        self.pause(chance)
        if chance.random() < 0.2:
            raise BackendError("this once") if chance.random() < 0.95 else ClosedError("for good")
        return MASK

    def produce(self, stream: Stream, number: int) -> None:
        chance = random.Random(self.seed ^ number)
        for index in range(FRAMES):
            self.answers.append(stream.submit(np.full((1, 1), index, np.uint8), id=(number, index)))
            self.pause(chance)

    def iterate(self, stream: Stream) -> None:
        for event in stream:
            self.events.append(event)
            self.pause(random.Random(self.seed))

    def look_now_and_then(self, stream: Stream) -> None:
        while not stream.ended:
            event = stream.take(0.001)
            if event is not None:
                self.events.append(event)

    def await_them(self, stream: Stream) -> None:
        async def consume() -> None:
            async for event in stream:
                self.events.append(event)
                await asyncio.sleep(0)

        asyncio.run(consume())


CONSUMERS = (Play.iterate, Play.look_now_and_then, Play.await_them)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    policy=st.sampled_from(POLICIES),
    depth=st.integers(1, 3),
    calls=st.integers(1, 2),
    producers=st.integers(1, 2),
    consumers=st.lists(st.sampled_from(CONSUMERS), max_size=3),
    closes_after_s=st.none() | st.floats(0, 0.02),
    patience_s=st.sampled_from([0.0, 0.01]),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_frame_is_accounted_for_whoever_takes_events_and_whenever_the_stream_is_closed(
    policy: Policy,
    depth: int,
    calls: int,
    producers: int,
    consumers: list[Any],
    closes_after_s: float | None,
    patience_s: float,
    seed: int,
) -> None:
    play = Play(seed)
    stream = Stream(play.segment, policy, depth=depth, calls=calls, patience_s=patience_s)

    def close_early(after_s: float) -> None:
        time.sleep(after_s)
        counts = stream.close(0.001)
        assert ended(counts) + counts.in_flight == counts.submitted

    sources = [threading.Thread(target=play.produce, args=(stream, number)) for number in range(producers)]
    takers = [threading.Thread(target=take, args=(play, stream)) for take in consumers]
    if closes_after_s is not None:
        sources.append(threading.Thread(target=close_early, args=(closes_after_s,)))
    for thread in sources + takers:
        thread.start()
    while any(thread.is_alive() for thread in sources):
        counts = stream.snapshot()
        assert ended(counts) + counts.in_flight == counts.submitted
        assert counts.waiting <= depth
    stream.close(LONG_S if consumers else 0.01)
    for thread in takers:
        thread.join(LONG_S)
        assert not thread.is_alive()
    play.events += list(stream)  # those that nobody took; calls that a short close left under way end here
    counts = stream.snapshot()
    assert (ended(counts), counts.in_flight) == (FRAMES * producers, 0)
    assert counts.submitted == len(play.answers) == FRAMES * producers
    accepted = [answer.id for answer in play.answers if answer]
    assert sorted(map(str, (event.id for event in play.events))) == sorted(map(str, accepted))
