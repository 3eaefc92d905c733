"""Steps that are never silent for long: a bar on a terminal; elsewhere, such as in a log, a plain line now and then."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, TextIO, TypeVar

FIRST_S = 5.0
"""Off a terminal, a step that takes no longer says nothing."""
EVERY_S = 10.0
"""From one line of a step to the next."""
_REDRAW_S = 1.0

Item = TypeVar("Item")


class Progress:
    """A step of the work, as a context manager. What it prints goes to stderr, so that stdout stays clean.

    Off a terminal it says after 5 s, and every 10 s from then on, what is being done and how far it is: done, total and
    the time left, or where no total is known how long it has taken. A step that said so, or took over 5 s, says in one
    more line that it has ended, unless by an error. A thread prints, so a single long call is no silence either.

    Args:
        what: the step, such as "parity".
        total: how much there is to do; None where nobody knows.
        units: what is counted, in the plural.
        note: what else there is to say, such as a rate; asked whenever a line is.
        stream: to print on; stderr by default.
        clock: seconds, as `time.monotonic`.
        first_s, every_s: when the lines come.
    """

    def __init__(
        self,
        what: str,
        total: int | None = None,
        units: str = "",
        *,
        note: Callable[[], str] = lambda: "",
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        first_s: float = FIRST_S,
        every_s: float = EVERY_S,
    ) -> None:
        self._what, self._total, self._units, self._note = what, total, units, note
        self._stream = sys.stderr if stream is None else stream
        self._on_terminal = self._stream.isatty()
        self._clock, self._first_s, self._every_s = clock, first_s, every_s
        self._done, self._said, self._began, self._last_s = 0, False, 0.0, 0.0
        self._bar: Any = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._speak, name=f"progress of {what}", daemon=True)

    def update(self, count: int = 1) -> None:
        """So many more are done."""
        self._done += count
        self._last_s = self._took()
        if self._bar is not None:
            self._bar.update(count)

    def say(self) -> None:
        """Say how far it is; the thread does that in time."""
        if not self._on_terminal:
            self._print(self._line())
        elif self._total:
            self._bar.set_postfix_str(self._note())
        elif self._bar is None:  # nothing to fill a bar with: the words, which go when the step has ended
            self._bar = _bar(desc=self._line(), bar_format="{desc}", leave=False, file=self._stream)
        else:
            self._bar.set_description_str(self._line())

    def __enter__(self) -> Progress:
        self._began = self._clock()
        if self._on_terminal and self._total:
            self._bar = _bar(desc=self._what, total=self._total, unit=f" {self._units}", file=self._stream)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if self._bar is not None:
            self._bar.close()
        elif not self._on_terminal and kind is None and (self._said or self._took() > self._first_s):
            self._print(f"{self._what}: {self._count() or 'done'} in {_duration(self._took())}")

    def _speak(self) -> None:
        wait_s = _REDRAW_S if self._on_terminal else self._first_s
        while not self._ended.wait(wait_s):
            self.say()
            wait_s = _REDRAW_S if self._on_terminal else self._every_s

    def _took(self) -> float:
        return self._clock() - self._began

    def _count(self) -> str:
        """What is done of what there is to do; empty where nothing is counted."""
        if self._total is None:
            return f"{self._done} {self._units}" if self._done else ""
        return f"{self._done} of {self._total} {self._units}"

    def _line(self) -> str:
        parts = [self._count(), self._note(), f"{_duration(self._took())} so far", self._left()]
        return f"{self._what}: {', '.join(filter(None, parts))}"

    def _left(self) -> str:
        """The time left by the mean of what is done; it passes while the next one is under way."""
        if self._total is None or not 0 < self._done <= self._total:
            return ""
        each_s = self._last_s / self._done
        under_way_s = min(self._took() - self._last_s, each_s)
        return f"about {_duration(max(0.0, each_s * (self._total - self._done) - under_way_s))} left"

    def _print(self, line: str) -> None:
        self._said = True
        with suppress(OSError, ValueError):  # nobody reads any more; the work goes on
            print(line, file=self._stream, flush=True)


def followed(items: Sequence[Item], what: str, units: str) -> Iterator[Item]:
    """The items one by one, each of them done when the next is asked for; see `Progress`."""
    with Progress(what, len(items), units) as progress:
        for item in items:
            yield item
            progress.update()


def _bar(**options: Any) -> Any:
    from tqdm import tqdm  # a tenth of a second that no log needs

    return tqdm(**options)


def _duration(seconds: float) -> str:
    """Seconds in words of the size that is of interest."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
