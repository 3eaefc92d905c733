"""The books of a stream: every frame accounted for at every moment, whatever producers, consumers and faults do."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from streamed import accounted

from breastseg_deploy.accounts import MOST_REPORTS, POLICIES, Accounts, Entry, Policy
from breastseg_deploy.errors import ArgumentError, BackendError, ClosedError
from breastseg_deploy.events import MEANING, Delivered, Dropped, Event, Failed
from breastseg_deploy.result import Segmentation

MASK = Segmentation(np.zeros((2, 2), np.uint8), None, {}, "made up")


def fill(accounts: Accounts, *ids: object) -> list[Any]:
    return [accounts.submit("frame", one, 0.0, 0.0) for one in ids]


def taken(accounts: Accounts, now: float = 0.0) -> list[Event]:
    events = []
    while (event := accounts.take(now)) is not None:
        events.append(event)
    return events


def compute(accounts: Accounts, now: float = 0.0) -> object:
    """One frame from the queue to its result; its id, or None where none may begin."""
    entry = accounts.start(now)
    if entry is None:
        return None
    accounts.end(entry, MASK, now)
    return entry.id


class Books(RuleBasedStateMachine):
    """Any order of submissions, calls, failures, hand-overs and clocks; several calls at once end in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.computing: list[Entry] = []
        self.submitted = self.started = 0
        self.finished = False
        self.accepted: list[object] = []
        self.replaced: list[object] = []
        self.events: list[Event] = []

    @initialize(
        policy=st.sampled_from(POLICIES), depth=st.integers(1, 4), deadline_s=st.none() | st.sampled_from([0.5, 3.0])
    )
    def begin(self, policy: Policy, depth: int, deadline_s: float | None) -> None:
        self.policy, self.deadline_s, self.accounts = policy, deadline_s, Accounts(policy, depth, deadline_s)

    @rule(age_s=st.sampled_from([0.0, 0.2, 2.0, -1.0, float("nan")]), patient=st.booleans())
    def submit(self, age_s: float, patient: bool) -> None:
        answer = self.accounts.submit("frame", None, self.now - age_s, self.now)
        if answer is None:
            assert self.policy == "block"
            if patient:  # it waits on, and is not counted
                return
            answer = self.accounts.refuse(None, "full")
        assert answer.id == self.submitted
        self.submitted += 1
        if answer:
            self.accepted.append(answer.id)
            self.replaced += answer.replaced
        else:
            assert answer.refused in MEANING
            assert not answer.replaced

    @rule()
    def start(self) -> None:
        entry = self.accounts.start(self.now)
        if entry is not None:
            self.computing.append(entry)
            self.started += 1
            assert self.deadline_s is None or self.now - entry.acquired_at < self.deadline_s

    @precondition(lambda self: self.computing)
    @rule(data=st.data(), error=st.sampled_from([None, None, None, ValueError("x"), BackendError("y")]))
    def end(self, data: st.DataObject, error: Exception | None) -> None:
        entry = self.computing.pop(data.draw(st.integers(0, len(self.computing) - 1)))
        self.accounts.end(entry, error or MASK, self.now)

    @precondition(lambda self: self.computing)
    @rule()
    def lose_the_device(self) -> None:
        self.accounts.end(self.computing.pop(), ClosedError("for good"), self.now)
        self.finished = True

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, -2.0]))
    def clock(self, seconds: float) -> None:
        self.now += seconds

    @rule(count=st.integers(1, 5))
    def take(self, count: int) -> None:
        for _ in range(count):
            event = self.accounts.take(self.now)
            if event is not None:
                self.events.append(event)

    @rule()
    def finish(self) -> None:
        self.accounts.finish()
        self.finished = True

    @rule()
    def drop_waiting(self) -> None:
        self.accounts.drop_waiting("closed", self.now)

    @invariant()
    def every_frame_is_accounted_for(self) -> None:
        counts = self.accounts.snapshot()
        assert accounted(counts) == counts.submitted == self.submitted
        assert counts.computing >= len(self.computing)  # one that ended before an older one waits for it
        assert counts.waiting <= self.accounts.depth
        assert counts.wait.count == self.started
        assert counts.untaken <= self.accounts.depth or self.finished

    @invariant()
    def ages_are_never_negative(self) -> None:
        assert all(event.age_s >= 0 for event in self.events)

    def teardown(self) -> None:
        """At the end, each accepted frame has come back exactly once, the results in order."""
        self.accounts.finish()
        for entry in self.computing:
            self.accounts.end(entry, MASK, self.now)
        while not self.accounts.ended:
            self.events += taken(self.accounts, self.now)
            compute(self.accounts, self.now)
        assert sorted(event.id for event in self.events) == self.accepted  # type: ignore[type-var]
        results = [event.id for event in self.events if isinstance(event, Delivered)]
        assert results == sorted(results)  # type: ignore[type-var]
        counts = self.accounts.snapshot()
        assert accounted(counts) == counts.submitted
        assert counts.in_flight == 0
        assert self.replaced == [
            event.id for event in self.events if isinstance(event, Dropped) and event.reason == "replaced"
        ]
        assert counts.dropped == Counter(event.reason for event in self.events if isinstance(event, Dropped))
        assert counts.failed == sum(isinstance(event, Failed) for event in self.events)
        assert counts.latency.count == counts.delivered == len(results)
        if self.policy in ("block", "reject"):
            assert set(counts.dropped) <= {"overdue", "closed", "lost"}


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=100, stateful_step_count=40, deadline=None, derandomize=True)


def test_block_has_no_answer_where_there_is_no_place_and_counts_nothing() -> None:
    accounts = Accounts("block", 2)
    answers = fill(accounts, "a", "b", "c")
    assert [bool(answer) for answer in answers[:2]] == [True, True]
    assert answers[2] is None
    assert accounts.snapshot().submitted == 2


def test_reject_refuses_the_new_frame() -> None:
    accounts = Accounts("reject", 2)
    *_, answer = fill(accounts, "a", "b", "c")
    assert (answer.refused, answer.id) == ("full", "c")
    assert [compute(accounts), compute(accounts)] == ["a", "b"]


def test_drop_oldest_drops_the_frame_that_has_waited_longest_and_tells_producer_and_consumer() -> None:
    accounts = Accounts("drop_oldest", 2)
    *_, answer = fill(accounts, "a", "b", "c")
    assert (bool(answer), answer.replaced) == (True, ("a",))
    assert taken(accounts) == [Dropped("a", "replaced", 0.0)]
    assert [compute(accounts), compute(accounts)] == ["b", "c"]


def test_latest_has_one_frame_waiting_whatever_the_depth() -> None:
    accounts = Accounts("latest", 8)
    fill(accounts, "a", "b", "c")
    assert accounts.snapshot().waiting == 1
    assert compute(accounts) == "c"


@pytest.mark.parametrize("policy", ["block", "reject"])
def test_no_mask_is_made_that_nobody_has_room_for(policy: Policy) -> None:
    accounts = Accounts(policy, 1)
    fill(accounts, "a")
    compute(accounts)
    fill(accounts, "b")
    assert compute(accounts) is None
    (event,) = taken(accounts)
    assert event.id == "a"
    assert compute(accounts) == "b"


def test_latest_keeps_the_newest_result_for_a_consumer_that_was_away() -> None:
    accounts = Accounts("latest", 1)
    for one in "abc":
        fill(accounts, one)
        compute(accounts)
    events = taken(accounts)
    assert [(event.id, type(event)) for event in events] == [("a", Dropped), ("b", Dropped), ("c", Delivered)]
    assert accounts.snapshot().dropped == {"not_taken": 2}


@pytest.mark.parametrize("policy", POLICIES)
def test_a_finished_stream_drops_and_holds_back_nothing_for_want_of_room(policy: Policy) -> None:
    accounts = Accounts(policy, 1)
    fill(accounts, "a")
    compute(accounts)
    fill(accounts, "b")
    accounts.finish()
    compute(accounts)
    events = taken(accounts)
    assert [(event.id, type(event)) for event in events] == [("a", Delivered), ("b", Delivered)]


def test_an_overdue_frame_is_dropped_before_its_inference() -> None:
    accounts = Accounts("block", 4, deadline_s=1.0)
    accounts.submit("frame", "late", 0.0, 0.0)
    accounts.submit("frame", "fresh", 1.5, 1.5)
    entry = accounts.start(2.0)
    assert entry is not None
    assert entry.id == "fresh"
    assert taken(accounts) == [Dropped("late", "overdue", 1.5)]


def test_overdue_frames_make_room_for_fresh_ones() -> None:
    accounts = Accounts("reject", 1, deadline_s=1.0)
    fill(accounts, "late")
    answer = accounts.submit("frame", "fresh", 2.0, 2.0)
    assert answer


def test_results_wait_for_older_frames_that_are_still_computed() -> None:
    accounts = Accounts("block", 4)
    fill(accounts, "a", "b")
    first, second = accounts.start(0.0), accounts.start(0.0)
    assert first is not None
    assert second is not None
    accounts.end(second, MASK, 0.0)
    assert taken(accounts) == []
    accounts.end(first, MASK, 0.0)
    assert [event.id for event in taken(accounts)] == ["a", "b"]


def test_a_lost_device_drops_what_waits_and_refuses_what_comes() -> None:
    accounts = Accounts("block", 4)
    fill(accounts, "a", "b")
    entry = accounts.start(0.0)
    assert entry is not None
    accounts.end(entry, ClosedError("the GPU failed for good"), 0.0)
    assert [(event.id, type(event)) for event in taken(accounts)] == [("a", Failed), ("b", Dropped)]
    (answer,) = fill(accounts, "c")
    assert answer.refused == "lost"
    assert accounts.ended


def test_reports_that_nobody_takes_are_bounded_and_then_frames_are_refused() -> None:
    accounts = Accounts("latest", 1)
    answers = fill(accounts, *range(MOST_REPORTS + 5))
    assert [answer.refused for answer in answers[-4:]] == ["unread"] * 4
    assert accounts.unread == MOST_REPORTS
    assert len(taken(accounts)) == MOST_REPORTS
    assert fill(accounts, "again")[0]


@pytest.mark.parametrize(("ahead_s", "refused"), [(1.7e9, "clock"), (float("nan"), "clock"), (-3.0, None)])
def test_a_frame_from_the_future_is_refused(ahead_s: float, refused: str | None) -> None:
    answer = Accounts("block", 1).submit("frame", "a", 5.0 + ahead_s, 5.0)
    assert answer is not None
    assert answer.refused == refused


def test_wait_and_latency_are_measured_apart() -> None:
    accounts = Accounts("block", 4)
    accounts.submit("frame", "a", 1.0, 2.0)
    entry = accounts.start(5.0)
    assert entry is not None
    accounts.end(entry, MASK, 9.0)
    (event,) = taken(accounts, 11.0)
    assert isinstance(event, Delivered)
    assert (event.waited_s, event.age_s) == (3.0, 10.0)
    assert (accounts.snapshot().wait.max_s, accounts.snapshot().latency.max_s) == (3.0, 10.0)


def test_a_frame_is_let_go_once_it_was_computed() -> None:
    accounts = Accounts("block", 1)
    fill(accounts, "a")
    entry = accounts.start(0.0)
    assert entry is not None
    accounts.end(entry, MASK, 0.0)
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
        Accounts(*wrong)
