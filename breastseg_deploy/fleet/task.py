"""One input of a fleet, and the part of all inputs that one job of a scheduler takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from breastseg_deploy.errors import ArgumentError

One = TypeVar("One")


@dataclass(frozen=True)
class Task:
    """One input: its path travels between processes, its pixels never do.

    Attributes:
        name: that its output is called by; unique in the fleet.
        path: of the file.
    """

    name: str
    path: Path

    @property
    def fingerprint(self) -> str:
        """Size and time of the last change: another one means another content.

        Raises:
            OSError: the file is not there.
        """
        state = self.path.stat()
        return f"{state.st_size}-{state.st_mtime_ns}"


@dataclass(frozen=True)
class Outcome:
    """What became of one input that was worked on without an error; `remark` says what its user must know."""

    remark: str = ""


Do = Callable[[Task], Outcome]
"""Does the work of one task. Raises a BreastsegError where that cannot be done; another call may go on from there."""


class Job(Protocol):
    """What a fleet does with each input. It travels to the workers, so it must be picklable."""

    @property
    def key(self) -> str:
        """All that the outputs depend on beside the input: a finished input is finished for this key alone."""

    def open(self) -> AbstractContextManager[Do]:
        """Load what the work needs, once for each worker.

        Raises:
            BreastsegError: the work cannot be done on this machine.
        """


def part_of(all_of_them: Sequence[One], number: int, count: int) -> list[One]:
    """Part `number` (1 to `count`) of a list: every input is in one part, and the parts differ by one input at most.

    Raises:
        ArgumentError: there is no such part.
    """
    if not 1 <= number <= count:
        raise ArgumentError(f"a part is I/N with 1 <= I <= N, got {number}/{count}")
    return list(all_of_them[number - 1 :: count])


def parse_part(text: str) -> tuple[int, int]:
    """The I and the N of "I/N".

    Raises:
        ArgumentError: it is written otherwise.
    """
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ArgumentError(f"a part is written I/N with 1 <= I <= N, such as 2/8, got {text!r}")
    return int(number), int(count)
