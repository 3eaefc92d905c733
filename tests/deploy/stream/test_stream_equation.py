"""No frame is lost or counted twice, whatever happens at once."""

from __future__ import annotations

import logging
import random
import threading
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from streamed import LONG_S, accounted, answer, ids

from breastseg_deploy import BackendError, ClosedError
from breastseg_deploy.accounts import POLICIES, Policy
from breastseg_deploy.events import Event, Submission
from breastseg_deploy.result import Segmentation
from breastseg_deploy.stream import Stream


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
