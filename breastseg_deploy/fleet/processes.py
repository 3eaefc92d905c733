"""A fleet on this machine: workers in processes of their own, replaced when they die."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from breastseg_deploy.errors import BackendError, BreastsegError, MachineError, ParityError
from breastseg_deploy.fleet.ledger import DEATHS, Ledger
from breastseg_deploy.fleet.task import Job, Task
from breastseg_deploy.fleet.worker import work_through
from breastseg_deploy.progress import Progress

_DEATHS_IN_VAIN = DEATHS + 1
"""Workers in a row that die in vain, for each worker: more than setting one input aside takes."""
_REFUSALS = {error.exit_code: error for error in (BackendError, ParityError, MachineError)}
"""What a worker that could not begin raised, by its exit code; it has told why itself."""
_LOOK_S = 0.5
_SPAWN = multiprocessing.get_context("spawn")  # engines do not survive a fork


def work_in_processes(tasks: Sequence[Task], job: Job, folder: Path, workers: int, retries: int) -> None:
    """Settle every input by a number of workers; a worker that is killed is replaced.

    Raises:
        BreastsegError: the work cannot begin on this machine, as its first worker said.
        BackendError: workers die and nothing gets done.
    """
    ledger = Ledger(folder)
    names = {task.name for task in tasks}
    at_start = settled = len(ledger.settled_names(job.key) & names)
    refusal: type[BreastsegError] | None = None
    running: list[BaseProcess | None] = [
        _start(tasks, job, folder, retries, number, workers) for number in range(workers)
    ]
    deaths = before = 0
    try:
        with Progress("fleet", len(tasks), "inputs") as progress:
            while alive := [one for one in running if one is not None]:
                # A death wakes at once; settled inputs stand in files, which nobody announces, hence the time limit.
                wait([one.sentinel for one in alive], timeout=_LOOK_S)
                settled = len(ledger.settled_names(job.key) & names)
                # Progress forgives earlier deaths: only workers that die with nothing done in between end the fleet.
                if settled > before:
                    progress.update(settled - before)
                    deaths, before = 0, settled
                for number, one in enumerate(running):
                    if one is None or one.is_alive():
                        continue
                    if one.exitcode == 0:  # it found nothing left to claim
                        running[number] = None
                        continue
                    if one.exitcode in _REFUSALS and settled == at_start:  # another one would fare no better
                        running[number], refusal = None, _REFUSALS[one.exitcode]
                        continue
                    deaths += 1
                    if deaths > _DEATHS_IN_VAIN * workers:
                        raise BackendError(
                            f"{deaths} workers ended one after another (the last with {one.exitcode}) and nothing got "
                            "done; run one input without --workers to see why"
                        )
                    running[number] = _start(tasks, job, folder, retries, number, workers)
        if refusal is not None and settled == at_start < len(names):
            raise refusal("no worker could begin, for the reason that stands above")
    finally:
        # All are told to end before any is waited for: their ends overlap.
        for one in running:
            if one is not None:
                one.terminate()
        for one in running:
            if one is not None:
                one.join()


def _start(tasks: Sequence[Task], job: Job, folder: Path, retries: int, number: int, workers: int) -> BaseProcess:
    process = _SPAWN.Process(
        target=_run, args=(list(tasks), job, folder, retries, number, workers), name=f"worker {number}"
    )
    process.start()
    return process


def _run(tasks: Sequence[Task], job: Job, folder: Path, retries: int, number: int, workers: int) -> None:
    """The whole life of a worker. It ends with its parent, so that a fleet that is gone holds no claims."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _take_cores(number, workers)
    parent = multiprocessing.parent_process()
    try:
        work_through(tasks, job, folder, retries, lambda: parent is None or parent.is_alive())
    except BreastsegError as err:
        print(f"error: worker {number}: {err}", file=sys.stderr)
        sys.exit(err.exit_code)


def _take_cores(number: int, workers: int) -> None:
    """Keep to this worker's share of the cores: engines that all use all cores are slower together than one alone."""
    with suppress(AttributeError, OSError):  # not every system can
        cores = sorted(os.sched_getaffinity(0))
        if workers <= len(cores):
            os.sched_setaffinity(0, cores[number::workers])
