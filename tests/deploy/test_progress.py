"""Long steps are never silent, short ones are, and a log is never filled."""

from __future__ import annotations

import inspect
import io
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from breastseg_deploy.progress import EVERY_S, FIRST_S, Progress, followed

NEVER_S = threading.TIMEOUT_MAX


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Log(io.StringIO):
    """Where a thread writes; it can be waited for, without looking again and again."""

    def __init__(self, lines: int) -> None:
        super().__init__()
        self._missing = lines
        self.full = threading.Event()

    def write(self, text: str) -> int:
        written = super().write(text)
        self._missing -= text.count("\n")
        if self._missing <= 0:
            self.full.set()
        return written


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log() -> io.StringIO:
    return io.StringIO()


def step(what: str, total: int | None, units: str, log: io.StringIO, clock: Clock) -> Progress:
    """A step that speaks when it is told to."""
    return Progress(what, total, units, stream=log, clock=clock, first_s=NEVER_S)


def test_a_line_says_what_how_much_of_how_much_and_the_time_left(log: io.StringIO, clock: Clock) -> None:
    with step("parity", 30, "frames", log, clock) as progress:
        clock.now_s += 40
        progress.update()
        progress.update(9)
        progress.say()
    assert log.getvalue().splitlines()[0] == "parity: 10 of 30 frames, 40 s so far, about 1 min 20 s left"


def test_the_time_left_passes_while_one_is_under_way_and_is_never_less_than_what_comes_after_it(
    log: io.StringIO, clock: Clock
) -> None:
    with step("parity", 3, "frames", log, clock) as progress:
        clock.now_s += 60
        progress.update()
        for later_s in (10, 40, 40):
            clock.now_s += later_s
            progress.say()
    left = [line.rpartition(", ")[2] for line in log.getvalue().splitlines()[:3]]
    assert left == ["about 1 min 50 s left", "about 1 min 10 s left", "about 1 min 0 s left"]


def test_before_anything_is_done_nothing_is_said_of_the_time_left(log: io.StringIO, clock: Clock) -> None:
    with step("parity", 30, "frames", log, clock) as progress:
        clock.now_s += 5
        progress.say()
    assert log.getvalue().splitlines()[0] == "parity: 0 of 30 frames, 5 s so far"


def test_a_step_of_unknown_length_says_how_long_it_has_taken(log: io.StringIO, clock: Clock) -> None:
    with step("tracing", None, "", log, clock) as progress:
        clock.now_s += 15
        progress.say()
        clock.now_s += 3700
    assert log.getvalue().splitlines() == ["tracing: 15 s so far", "tracing: done in 1 h 1 min"]


def test_what_is_counted_without_a_total_is_said_too(log: io.StringIO, clock: Clock) -> None:
    with step("search", None, "sets", log, clock) as progress:
        progress.update(4)
        clock.now_s += 15
        progress.say()
    assert log.getvalue().splitlines() == ["search: 4 sets, 15 s so far", "search: 4 sets in 15 s"]


def test_a_short_step_says_nothing(log: io.StringIO, clock: Clock) -> None:
    with Progress("parity", 2, "frames", stream=log, clock=clock) as progress:
        progress.update(2)
        clock.now_s += FIRST_S
    assert log.getvalue() == ""


def test_a_long_step_says_that_it_has_ended(log: io.StringIO, clock: Clock) -> None:
    with Progress("parity", 2, "frames", stream=log, clock=clock) as progress:
        progress.update(2)
        clock.now_s += FIRST_S + 1
    assert log.getvalue() == "parity: 2 of 2 frames in 6 s\n"


def test_a_step_that_ends_by_an_error_leaves_the_last_word_to_it(log: io.StringIO, clock: Clock) -> None:
    def fails() -> None:
        with step("parity", 2, "frames", log, clock):
            clock.now_s += 60
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()
    assert log.getvalue() == ""


def test_a_single_long_call_is_no_silence() -> None:
    log = Log(lines=3)
    with Progress("tracing", stream=log, first_s=0.0, every_s=0.0):
        assert log.full.wait(timeout=60)
    lines = log.getvalue().splitlines()
    assert set(lines[:-1]) == {"tracing: 0 s so far"}
    assert lines[-1] == "tracing: done in 0 s"


def test_the_first_line_comes_after_5_s_and_the_others_10_s_apart() -> None:
    assert (FIRST_S, EVERY_S) == (5, 10)
    parameters = inspect.signature(Progress).parameters
    assert (parameters["first_s"].default, parameters["every_s"].default) == (FIRST_S, EVERY_S)


def test_no_thread_outlives_its_step(log: io.StringIO) -> None:
    before = threading.active_count()
    with Progress("tracing", stream=log):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_the_items_are_done_when_the_next_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(followed([3, 1, 2], "sorting", "numbers")) == [3, 1, 2]
    assert list(followed([], "sorting", "numbers")) == []
    assert capsys.readouterr() == ("", "")


def test_a_loop_that_is_left_early_ends_its_step() -> None:
    before = threading.active_count()
    numbers: Iterator[int] = followed([1, 2, 3], "sorting", "numbers")
    assert next(numbers) == 1
    del numbers
    assert threading.active_count() == before


def test_a_terminal_shows_a_bar(clock: Clock) -> None:
    terminal = Terminal()
    with step("parity", 2, "frames", terminal, clock) as progress:
        progress.update(2)
        progress.say()
    shown = terminal.getvalue()
    assert "parity: 100%" in shown
    assert "2/2" in shown
    assert "so far" not in shown


def test_a_terminal_shows_the_time_of_a_step_of_unknown_length_while_it_lasts(clock: Clock) -> None:
    terminal = Terminal()
    with step("tracing", None, "", terminal, clock) as progress:
        assert terminal.getvalue() == ""
        clock.now_s += 75
        progress.say()
        clock.now_s += 1
        progress.say()
        assert terminal.getvalue().split("\r")[1:] == ["tracing: 1 min 15 s so far", "tracing: 1 min 16 s so far"]
    assert terminal.getvalue().split("\r")[3].strip() == ""  # wiped


@pytest.mark.parametrize("error", [BrokenPipeError, ValueError("I/O operation on closed file")])
def test_a_log_that_nobody_reads_any_more_does_not_stop_the_work(error: Exception, clock: Clock) -> None:
    class Closed(io.StringIO):
        def write(self, _: str) -> int:
            raise error

    with step("parity", 2, "frames", Closed(), clock) as progress:
        clock.now_s += 60
        progress.say()


def test_a_log_needs_no_progress_bar() -> None:
    code = "import sys; from breastseg_deploy.progress import followed; list(followed([1], 'a', 'b')); "
    code += "print('tqdm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("False\n", "")
