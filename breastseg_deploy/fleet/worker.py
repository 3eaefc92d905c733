"""What one worker of a fleet does: take an input that nobody works on, do it, write down what became of it."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from breastseg_deploy.errors import BreastsegError
from breastseg_deploy.fleet.ledger import DEATHS, Ledger, Line, State
from breastseg_deploy.fleet.task import Do, Job, Task
from breastseg_deploy.storage import make_folder
from breastseg_deploy.unfinished import try_lock

CLAIMS = ".claims"
_LOG = logging.getLogger("breastseg_deploy")
_DIED = (
    "{deaths} workers ended on it without an error: the system killed them, most often for want of memory (use fewer "
    "--workers), or a library crashed"
)
_PAUSE_S = 0.2


def worker_name() -> str:
    """Host and process: unique among all workers that live."""
    return f"{platform.node()}:{os.getpid()}"


class Worker:
    """One worker with its ledger.

    Args:
        job: what to do with each input.
        folder: of the outputs, shared by the whole fleet.
        retries: how often an input that failed is tried again.
    """

    def __init__(self, job: Job, folder: Path, retries: int) -> None:
        self._key, self._retries = job.key, retries
        self._ledger, self._claims, self._name = Ledger(folder), folder / CLAIMS, worker_name()
        make_folder(self._claims)

    def attempt(self, task: Task, do: Do) -> bool:
        """Work on an input unless it is settled or another worker has it; says whether it is settled now."""
        if self._ledger.settled(task, self._key):
            return True
        with ExitStack() as stack:
            # The lock is the claim: it is free again when its process ends, however that happens.
            release = try_lock(self._claims / hashlib.sha256(os.fsencode(task.name)).hexdigest())
            if release is None:
                return False
            stack.callback(release)
            lines = self._ledger.lines_of(task, self._key)
            if lines and lines[-1].state in ("done", "set aside"):  # by whoever held the claim a moment ago
                return True
            failures = sum(line.state == "failed" for line in lines)
            deaths = sum(line.state == "begun" for line in lines) - failures
            if deaths >= DEATHS:
                return self._write_down(task, "set aside", _DIED.format(deaths=deaths), 0)
            return self._do(task, do, failures)

    def _do(self, task: Task, do: Do, failures: int) -> bool:
        self._write_down(task, "begun", "", 0)
        started = time.monotonic()
        state: State = "done"
        try:
            reason = do(task).remark
        except (BreastsegError, MemoryError) as err:
            reason, state = str(err) or type(err).__name__, self._after(failures)
        except Exception as err:  # of a library, or of this program: the other inputs may be fine all the same
            _LOG.exception("%s: an error that nobody expected", task.path)
            reason = f"an error that nobody expected, {type(err).__name__}: {err}; the worker's log has the details"
            state = self._after(failures)
        return self._write_down(task, state, reason, time.monotonic() - started)

    def _after(self, failures: int) -> State:
        """What a failure makes of an input that has failed so often before."""
        return "failed" if failures < self._retries else "set aside"

    def _write_down(self, task: Task, state: State, reason: str, seconds: float) -> bool:
        """Add a line; says whether it settles the input."""
        try:
            fingerprint = task.fingerprint
        except OSError:
            fingerprint = ""
        path = str(task.path)
        self._ledger.add(Line(task.name, path, state, reason, round(seconds, 3), self._name, self._key, fingerprint))
        return state in ("done", "set aside")


def work_through(
    tasks: Sequence[Task], job: Job, folder: Path, retries: int, goes_on: Callable[[], bool] = lambda: True
) -> None:
    """Work until every input is settled, by whomever; what others have claimed is looked at again later.

    Args:
        tasks: the inputs, in the order in which they are tried.
        job: what to do with each.
        folder: of the outputs.
        retries: see `Worker`.
        goes_on: asked before each input; where it says no, the worker ends.

    Raises:
        BreastsegError: the job cannot be opened, or the ledger not written.
    """
    worker = Worker(job, folder, retries)
    with job.open() as do:
        waiting = list(tasks)
        while waiting:
            left = []
            for task in waiting:
                if not goes_on():
                    return
                if not worker.attempt(task, do):
                    left.append(task)
            if len(left) == len(waiting):
                time.sleep(_PAUSE_S)  # all of them are in other hands
            waiting = left
