"""Jobs for the tests of fleets. A module of their own: workers are processes that import it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from breastseg_deploy.errors import FrameError, MachineError
from breastseg_deploy.fleet.task import Do, Outcome, Task
from breastseg_deploy.storage import write_whole


@dataclass(frozen=True)
class Reverse:
    """Writes each input's bytes the other way round, and leaves a trace of every time that it was begun and ended.

    Attributes:
        output: folder of the results.
        takes_s: for each input.
        fails: names that always fail.
        fails_once: names that fail the first time.
        kills: names whose worker dies.
        surprises: names that fail with an error that is not of our tree.
        refuses: workers that cannot begin, by the names of their processes.
    """

    output: Path
    takes_s: float = 0.0
    fails: tuple[str, ...] = ()
    fails_once: tuple[str, ...] = ()
    kills: tuple[str, ...] = ()
    surprises: tuple[str, ...] = ()
    refuses: tuple[str, ...] = ()
    key: str = "reverse 1"

    @contextmanager
    def open(self) -> Iterator[Do]:
        if multiprocessing.current_process().name in self.refuses:
            raise MachineError("the engine is not installed; install it")
        yield self._do

    def _do(self, task: Task) -> Outcome:
        self._trace(task, "begun")
        time.sleep(self.takes_s)
        if task.name in self.kills:
            os.kill(os.getpid(), signal.SIGKILL)
        if task.name in self.surprises:
            raise ZeroDivisionError("by nothing")
        if task.name in self.fails or (task.name in self.fails_once and self.times(task.name, "begun") < 2):
            raise FrameError(f"{task.path} is damaged")
        write_whole(self.output / f"{task.name}.out", task.path.read_bytes()[::-1])
        self._trace(task, "ended")
        return Outcome()

    def _trace(self, task: Task, what: str) -> None:
        with (self.output / f".{task.name}.{what}").open("ab") as file:
            file.write(b"x")

    def times(self, name: str, what: str) -> int:
        """How often an input was "begun" or "ended"."""
        place = self.output / f".{name}.{what}"
        return place.stat().st_size if place.exists() else 0
