"""The books of a stream: every frame accounted for at every moment, whatever producers, consumers and faults do."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from breastseg_deploy.errors import ArgumentError, BackendError, ClosedError
from breastseg_deploy.events import MEANING, Delivered, Dropped, Event, Failed, Snapshot
from breastseg_deploy.ledger import MOST_REPORTS, POLICIES, Entry, Ledger, Policy
from breastseg_deploy.result import Segmentation

MASK = Segmentation(np.zeros((2, 2), np.uint8), None, {}, "made up")


def accounted(counts: Snapshot) -> int:
    return (
        counts.delivered
        + sum(counts.dropped.values())
        + sum(counts.refused.values())
        + counts.failed
        + counts.in_flight
    )


def fill(ledger: Ledger, *ids: object) -> list[Any]:
    return [ledger.submit("frame", one, 0.0, 0.0) for one in ids]


def taken(ledger: Ledger, now: float = 0.0) -> list[Event]:
    events = []
    while (event := ledger.take(now)) is not None:
        events.append(event)
    return events


def compute(ledger: Ledger, now: float = 0.0) -> object:
    """One frame from the queue to its result; its id, or None where none may begin."""
    entry = ledger.start(now)
    if entry is None:
        return None
    ledger.end(entry, MASK, now)
    return entry.id


class Books(RuleBasedStateMachine):
    """Any order of submissions, calls, failures, hand-overs and clocks; several calls at once end in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.computing: list[Entry] = []
        self.submitted = 0
        self.finished = False
        self.accepted: list[object] = []
        self.events: list[Event] = []

    @initialize(
        policy=st.sampled_from(POLICIES), depth=st.integers(1, 4), deadline_s=st.none() | st.sampled_from([0.5, 3.0])
    )
    def begin(self, policy: Policy, depth: int, deadline_s: float | None) -> None:
        self.policy, self.ledger = policy, Ledger(policy, depth, deadline_s)

    @rule(age_s=st.sampled_from([0.0, 0.2, 2.0, -1.0, float("nan")]))
    def submit(self, age_s: float) -> None:
        answer = self.ledger.submit("frame", None, self.now - age_s, self.now)
        if answer is None:
            assert self.policy == "block"
            return
        assert answer.id == self.submitted
        self.submitted += 1
        if answer:
            self.accepted.append(answer.id)
        else:
            assert answer.refused in MEANING

    @rule()
    def start(self) -> None:
        entry = self.ledger.start(self.now)
        if entry is not None:
            self.computing.append(entry)

    @precondition(lambda self: self.computing)
    @rule(data=st.data(), error=st.sampled_from([None, None, None, ValueError("x"), BackendError("y")]))
    def end(self, data: st.DataObject, error: Exception | None) -> None:
        entry = self.computing.pop(data.draw(st.integers(0, len(self.computing) - 1)))
        self.ledger.end(entry, error or MASK, self.now)

    @precondition(lambda self: self.computing)
    @rule()
    def lose_the_device(self) -> None:
        self.ledger.end(self.computing.pop(), ClosedError("for good"), self.now)
        self.finished = True

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, -2.0]))
    def clock(self, seconds: float) -> None:
        self.now += seconds

    @rule(count=st.integers(1, 5))
    def take(self, count: int) -> None:
        for _ in range(count):
            event = self.ledger.take(self.now)
            if event is not None:
                self.events.append(event)

    @rule()
    def finish(self) -> None:
        self.ledger.finish()
        self.finished = True

    @rule()
    def drop_waiting(self) -> None:
        self.ledger.drop_waiting("closed", self.now)

    @invariant()
    def every_frame_is_accounted_for(self) -> None:
        counts = self.ledger.snapshot()
        assert accounted(counts) == counts.submitted == self.submitted
        assert counts.computing >= len(self.computing)  # one that ended before an older one waits for it
        assert counts.waiting <= self.ledger.depth
        assert counts.untaken <= self.ledger.depth or self.finished

    @invariant()
    def ages_are_never_negative(self) -> None:
        assert all(event.age_s >= 0 for event in self.events)

    def teardown(self) -> None:
        """At the end, each accepted frame has come back exactly once, the results in order."""
        self.ledger.finish()
        for entry in self.computing:
            self.ledger.end(entry, MASK, self.now)
        while not self.ledger.ended:
            self.events += taken(self.ledger, self.now)
            compute(self.ledger, self.now)
        assert sorted(event.id for event in self.events) == self.accepted  # type: ignore[type-var]
        results = [event.id for event in self.events if isinstance(event, Delivered)]
        assert results == sorted(results)  # type: ignore[type-var]
        counts = self.ledger.snapshot()
        assert accounted(counts) == counts.submitted
        assert counts.in_flight == 0
        assert counts.dropped == Counter(event.reason for event in self.events if isinstance(event, Dropped))
        assert counts.failed == sum(isinstance(event, Failed) for event in self.events)
        assert counts.latency.count == counts.delivered == len(results)
        if self.policy in ("block", "reject"):
            assert set(counts.dropped) <= {"overdue", "closed", "lost"}


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=100, stateful_step_count=40, deadline=None, derandomize=True)


def test_block_has_no_answer_where_there_is_no_place_and_counts_nothing() -> None:
    ledger = Ledger("block", 2)
    answers = fill(ledger, "a", "b", "c")
    assert [bool(answer) for answer in answers[:2]] == [True, True]
    assert answers[2] is None
    assert ledger.snapshot().submitted == 2


def test_reject_refuses_the_new_frame() -> None:
    ledger = Ledger("reject", 2)
    *_, answer = fill(ledger, "a", "b", "c")
    assert (answer.refused, answer.id) == ("full", "c")
    assert [compute(ledger), compute(ledger)] == ["a", "b"]


def test_drop_oldest_drops_the_frame_that_has_waited_longest_and_tells_producer_and_consumer() -> None:
    ledger = Ledger("drop_oldest", 2)
    *_, answer = fill(ledger, "a", "b", "c")
    assert (bool(answer), answer.replaced) == (True, ("a",))
    assert taken(ledger) == [Dropped("a", "replaced", 0.0)]
    assert [compute(ledger), compute(ledger)] == ["b", "c"]


def test_latest_has_one_frame_waiting_whatever_the_depth() -> None:
    ledger = Ledger("latest", 8)
    fill(ledger, "a", "b", "c")
    assert ledger.snapshot().waiting == 1
    assert compute(ledger) == "c"


@pytest.mark.parametrize("policy", ["block", "reject"])
def test_no_mask_is_made_that_nobody_has_room_for(policy: Policy) -> None:
    ledger = Ledger(policy, 1)
    fill(ledger, "a")
    compute(ledger)
    fill(ledger, "b")
    assert compute(ledger) is None
    (event,) = taken(ledger)
    assert event.id == "a"
    assert compute(ledger) == "b"


def test_latest_keeps_the_newest_result_for_a_consumer_that_was_away() -> None:
    ledger = Ledger("latest", 1)
    for one in "abc":
        fill(ledger, one)
        compute(ledger)
    events = taken(ledger)
    assert [(event.id, type(event)) for event in events] == [("a", Dropped), ("b", Dropped), ("c", Delivered)]
    assert ledger.snapshot().dropped == {"not_taken": 2}


@pytest.mark.parametrize("policy", POLICIES)
def test_a_finished_stream_drops_and_holds_back_nothing_for_want_of_room(policy: Policy) -> None:
    ledger = Ledger(policy, 1)
    fill(ledger, "a")
    compute(ledger)
    fill(ledger, "b")
    ledger.finish()
    compute(ledger)
    events = taken(ledger)
    assert [(event.id, type(event)) for event in events] == [("a", Delivered), ("b", Delivered)]


def test_an_overdue_frame_is_dropped_before_its_inference() -> None:
    ledger = Ledger("block", 4, deadline_s=1.0)
    ledger.submit("frame", "late", 0.0, 0.0)
    ledger.submit("frame", "fresh", 1.5, 1.5)
    entry = ledger.start(2.0)
    assert entry is not None
    assert entry.id == "fresh"
    assert taken(ledger) == [Dropped("late", "overdue", 1.5)]


def test_overdue_frames_make_room_for_fresh_ones() -> None:
    ledger = Ledger("reject", 1, deadline_s=1.0)
    fill(ledger, "late")
    answer = ledger.submit("frame", "fresh", 2.0, 2.0)
    assert answer


def test_results_wait_for_older_frames_that_are_still_computed() -> None:
    ledger = Ledger("block", 4)
    fill(ledger, "a", "b")
    first, second = ledger.start(0.0), ledger.start(0.0)
    assert first is not None
    assert second is not None
    ledger.end(second, MASK, 0.0)
    assert taken(ledger) == []
    ledger.end(first, MASK, 0.0)
    assert [event.id for event in taken(ledger)] == ["a", "b"]


def test_a_lost_device_drops_what_waits_and_refuses_what_comes() -> None:
    ledger = Ledger("block", 4)
    fill(ledger, "a", "b")
    entry = ledger.start(0.0)
    assert entry is not None
    ledger.end(entry, ClosedError("the GPU failed for good"), 0.0)
    assert [(event.id, type(event)) for event in taken(ledger)] == [("a", Failed), ("b", Dropped)]
    (answer,) = fill(ledger, "c")
    assert answer.refused == "lost"
    assert ledger.ended


def test_reports_that_nobody_takes_are_bounded_and_then_frames_are_refused() -> None:
    ledger = Ledger("latest", 1)
    answers = fill(ledger, *range(MOST_REPORTS + 5))
    assert [answer.refused for answer in answers[-4:]] == ["unread"] * 4
    assert ledger.unread == MOST_REPORTS
    assert len(taken(ledger)) == MOST_REPORTS
    assert fill(ledger, "again")[0]


@pytest.mark.parametrize(("ahead_s", "refused"), [(1.7e9, "clock"), (float("nan"), "clock"), (-3.0, None)])
def test_a_frame_from_the_future_is_refused(ahead_s: float, refused: str | None) -> None:
    answer = Ledger("block", 1).submit("frame", "a", 5.0 + ahead_s, 5.0)
    assert answer is not None
    assert answer.refused == refused


def test_wait_and_latency_are_measured_apart() -> None:
    ledger = Ledger("block", 4)
    ledger.submit("frame", "a", 1.0, 2.0)
    entry = ledger.start(5.0)
    assert entry is not None
    ledger.end(entry, MASK, 9.0)
    (event,) = taken(ledger, 11.0)
    assert isinstance(event, Delivered)
    assert (event.waited_s, event.age_s) == (3.0, 10.0)
    assert (ledger.snapshot().wait.max_s, ledger.snapshot().latency.max_s) == (3.0, 10.0)


def test_a_frame_is_let_go_once_it_was_computed() -> None:
    ledger = Ledger("block", 1)
    fill(ledger, "a")
    entry = ledger.start(0.0)
    assert entry is not None
    ledger.end(entry, MASK, 0.0)
    assert entry.frame is None


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (("newest", 1, None), "policy must be one of block, drop_oldest, reject, latest, got 'newest'"),
        (("block", 0, None), "depth must be a whole number of frames from 1 up, got 0"),
        (("block", 2.0, None), "depth must be a whole number"),
        (("block", 1, 0.0), "deadline_s must be over 0 seconds, got 0.0"),
        (("block", 1, float("nan")), "deadline_s must be over 0 seconds, got nan"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(wrong: tuple[Any, ...], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        Ledger(*wrong)
