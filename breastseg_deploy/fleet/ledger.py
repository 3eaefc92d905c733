"""The ledger of a fleet: what became of each input, one JSON line each, readable while the fleet works.

While it works, every step is a line that is added at the end; when it ends, one line per input is left.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from breastseg_deploy.errors import OutputError
from breastseg_deploy.fleet.task import Task
from breastseg_deploy.storage import make_folder, write_whole

LEDGER = "ledger.jsonl"

State = Literal["begun", "done", "failed", "set aside"]
DEATHS = 5
"""A worker that dies over and over on one input, such as for want of memory, would stop the fleet: the input is set
aside then. Workers that are killed for other reasons seldom meet the same input so often."""


@dataclass(frozen=True)
class Line:
    """A line of the ledger.

    Attributes:
        name, path: of the input.
        state: "begun", then one of the others; "failed" is tried again, "set aside" is not.
        reason: of a failure, or what the user must know of a result; one sentence.
        seconds: that the attempt took; 0 where it has only begun.
        worker: who worked on it.
        key: of the job.
        fingerprint: of the input.
    """

    name: str
    path: str
    state: State
    reason: str
    seconds: float
    worker: str
    key: str
    fingerprint: str


class Ledger:
    """The ledger of one output folder. Several processes may add to it and read it at the same time."""

    def __init__(self, folder: Path) -> None:
        make_folder(folder)
        self._path, self._lock_path = folder / LEDGER, folder / f".{LEDGER}.lock"
        self._of: dict[str, list[Line]] = {}
        self._read_to = self._inode = 0

    def add(self, line: Line) -> None:
        """Add a line; it is on the disk when this returns.

        Raises:
            OutputError: it cannot be written.
        """
        content = json.dumps(asdict(line)) + "\n"
        try:
            with self._locked(), self._path.open("ab") as file:
                if file.tell() and not self._ends_a_line():  # a process was killed in the middle of its line
                    content = "\n" + content
                file.write(content.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as err:
            raise OutputError(f"cannot write {self._path}: {(err.strerror or str(err)).lower()}; make room") from err

    def lines_of(self, task: Task, key: str) -> list[Line]:
        """All lines of an input as it is now, for this job, in order; what was added meanwhile is among them."""
        self._refresh()
        try:
            fingerprint = task.fingerprint
        except OSError:
            fingerprint = ""
        lines = self._of.get(task.name, [])
        return [line for line in lines if (line.key, line.fingerprint) == (key, fingerprint)]

    def settled(self, task: Task, key: str) -> Line | None:
        """The line that says that nothing more is to be done for an input; None where there is work."""
        lines = self.lines_of(task, key)
        return lines[-1] if lines and lines[-1].state in ("done", "set aside") else None

    def settled_names(self, key: str) -> set[str]:
        """Names of the inputs with which this job is through."""
        self._refresh()
        last = {name: lines[-1] for name, lines in self._of.items()}
        return {name for name, line in last.items() if line.key == key and line.state in ("done", "set aside")}

    def compact(self) -> None:
        """Leave the last line of each input.

        Raises:
            OutputError: it cannot be written.
        """
        with self._locked():
            self._refresh()
            last = [lines[-1] for _, lines in sorted(self._of.items())]
            content = "".join(json.dumps(asdict(line)) + "\n" for line in last)
            write_whole(self._path, content.encode())

    def _refresh(self) -> None:
        """Read what was added since the last time; all of it where the file was replaced."""
        try:
            with self._path.open("rb") as file:
                state = os.fstat(file.fileno())
                if state.st_ino != self._inode or state.st_size < self._read_to:
                    self._of, self._read_to, self._inode = {}, 0, state.st_ino
                file.seek(self._read_to)
                content = file.read()
        except FileNotFoundError:
            return
        whole = content[: content.rfind(b"\n") + 1]  # the rest is being written
        self._read_to += len(whole)
        for raw in whole.splitlines():
            line = _parsed(raw)
            if line is not None:
                self._of.setdefault(line.name, []).append(line)

    def _ends_a_line(self) -> bool:
        with self._path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        from filelock import FileLock

        with FileLock(self._lock_path, mode=0o600):
            yield


def _parsed(raw: bytes) -> Line | None:
    """A line; None for what is left of one whose process was killed."""
    try:
        return Line(**json.loads(raw))
    except (ValueError, TypeError):
        return None
