"""TensorRT's messages and progress, handed to Python's logging and to whoever asked for an engine."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from breastseg_deploy.engines.api import Enumerator, ILogger, IProgressMonitor, TensorRT

LOG = logging.getLogger("breastseg_deploy.engines")

SAY_EVERY_S = 10.0
"""How often a build, which takes minutes, is spoken of."""


class _Block:
    """A block of calls to TensorRT, and its complaints about them."""

    def __init__(self) -> None:
        self.errors: list[str] = []


_here: ContextVar[_Block | None] = ContextVar("block", default=None)
_open: set[_Block] = set()


@functools.cache
def logger(trt: TensorRT) -> ILogger:
    """The one logger of a TensorRT module: TensorRT keeps the first it is given for the whole process.

    It keeps nothing itself. Messages go to Python's logger "breastseg_deploy.engines", and errors to the block that
    called TensorRT (`heard`). Whatever reaches the user as an error is raised by that code, so TensorRT's own warnings
    and errors are notes on the side, at the level INFO.
    """
    base: Any = trt.ILogger
    errors = (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR)
    verbose = trt.ILogger.VERBOSE

    class Logger(base):  # type: ignore[misc]  # the base class is known at run time only
        def __init__(self) -> None:
            base.__init__(self)

        def log(self, severity: Enumerator, msg: str) -> None:
            if severity in errors:
                _hear(" ".join(msg.split()))
            LOG.log(logging.DEBUG if severity == verbose else logging.INFO, "%s: %s", severity.name, msg)

    made: ILogger = Logger()
    return made


@contextmanager
def heard() -> Iterator[None]:
    """What TensorRT complains of in this block belongs to it: `first_error` tells it until the block ends.

    Also a decorator. Blocks of several threads, for several engines, do not hear each other's complaints.
    """
    block = _Block()
    before = _here.set(block)
    _open.add(block)
    try:
        yield
    finally:
        _open.discard(block)
        _here.reset(before)


def first_error() -> str:
    """What TensorRT complained of first in this block: later complaints are mostly its consequences."""
    block = _here.get()
    return block.errors[0] if block is not None and block.errors else "TensorRT gave no reason"


def _hear(error: str) -> None:
    here = _here.get()
    # A thread of the builder's own calls for nobody in particular: whoever waits for TensorRT now is told.
    for block in list(_open) if here is None else [here]:
        block.errors.append(error)


class Progress:
    """What the builder is at, told now and then, and the way to stop it.

    Args:
        say: told, in a sentence.
        every_s: seconds between two sentences.

    Attributes:
        failure: what ended the build early, Ctrl-C or an error of `say`. It is kept here and raised after the build:
            an exception that crosses the builder's own code ends the process.
    """

    def __init__(self, say: Callable[[str], None], every_s: float = SAY_EVERY_S) -> None:
        self._say, self._every_s = say, every_s
        self._steps: dict[str, int] = {}
        self._told = time.monotonic()
        self.failure: BaseException | None = None

    def start(self, phase: str, steps: int) -> None:
        """A phase of so many steps begins."""
        LOG.debug("builder: %s, %d steps", phase, steps)
        self._steps[phase] = steps

    def step(self, phase: str, number: int) -> bool:
        """A step of a phase is done; False asks the builder to stop."""
        try:
            if time.monotonic() - self._told >= self._every_s:
                self._told = time.monotonic()
                self._say(f"building: {phase.lower()}, step {number + 1} of {self._steps.get(phase, number + 1)}")
        except BaseException as err:
            self.failure = err
        return self.failure is None


def progress_monitor(trt: TensorRT, progress: Progress) -> IProgressMonitor:
    """A monitor that the builder tells about its phases; Ctrl-C stops the build at its next step."""
    base: Any = trt.IProgressMonitor

    class Monitor(base):  # type: ignore[misc]  # the base class is known at run time only
        def __init__(self) -> None:
            base.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            progress.start(phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return progress.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            pass

    made: IProgressMonitor = Monitor()
    return made
