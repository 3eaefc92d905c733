"""What has passed, or was measured, on this machine: one private folder, one key, one record.

The folder is this user's alone: engines are native code, and a verdict opens the door to a mask. What others could
have put there is never believed.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from breastseg_deploy.errors import MachineError, OutputError
from breastseg_deploy.machine import CACHE_VARIABLE, Machine
from breastseg_deploy.storage import clear_partials, write_whole

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True)
class VerdictKey:
    """What a verdict depends on; where one entry differs, it is no verdict.

    Attributes:
        kind: what was found out; it begins the file's name, e.g. "self-test-openvino".
        depends_on: versions, hashes and settings, by name.
    """

    kind: str
    depends_on: Mapping[str, str]

    @property
    def file(self) -> str:
        """The name of its record."""
        words = json.dumps(dict(self.depends_on), sort_keys=True)
        return f"{self.kind}-{hashlib.sha256(words.encode()).hexdigest()[:32]}.json"


class Verdicts:
    """The verdicts of one machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def recall(self, key: VerdictKey) -> dict[str, Any] | None:
        """The figures of a verdict; None where there is none, or the record is damaged.

        Raises:
            MachineError: the cache folder is not known, others may write to it or to the record, or it cannot be read.
            OutputError: the folder cannot be made.
        """
        content = PrivateFolder.open(self._machine.cache).read(key.file)
        if content is None:
            return None
        try:
            kept = json.loads(content)
            figures, depends_on = kept["figures"], kept["depends_on"]
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
        return figures if isinstance(figures, dict) and depends_on == dict(key.depends_on) else None

    def record(self, key: VerdictKey, figures: Mapping[str, Any]) -> None:
        """Keep a verdict.

        Raises:
            MachineError: as `recall`.
            OutputError: it cannot be written.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        kept = {"figures": dict(figures), "depends_on": dict(key.depends_on), "recorded_at": now}
        PrivateFolder.open(self._machine.cache).write(key.file, json.dumps(kept, indent=2).encode())


@dataclass(frozen=True)
class PrivateFolder:
    """A folder of mode 0700 whose files have mode 0600. (Windows: as private as the place it lies in.)"""

    path: Path

    @classmethod
    def open(cls, path: Path) -> PrivateFolder:
        """Open a folder, made where it does not exist.

        Raises:
            MachineError: it belongs to another user, or others may write to it.
            OutputError: it cannot be made.
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = path.stat()
        except OSError as err:
            raise OutputError(
                f"cannot make the cache folder {path}: {(err.strerror or str(err)).lower()}; "
                f"name another folder in {CACHE_VARIABLE}"
            ) from err
        _check_private(path, found)
        return cls(path)

    def read(self, name: str) -> bytes | None:
        """The content of a file; None where there is none.

        Raises:
            MachineError: the file belongs to another user, others may write to it, it is no regular file, or it
                cannot be read.
        """
        place = self.path / name
        try:
            # Checked through the open file: what is looked at is what is read.
            with open(place, "rb", opener=_no_link) as file:
                _check_private(place, os.fstat(file.fileno()))
                return file.read()
        except FileNotFoundError:
            return None
        except OSError as err:
            raise MachineError(
                f"cannot read {place}: {(err.strerror or str(err)).lower()}; remove it, and it will be made again"
            ) from err

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole; what killed processes left half-written goes away.

        Raises:
            OutputError: no permission, no space.
        """
        clear_partials(self.path)
        write_whole(self.path / name, content, private=True)

    @contextmanager
    def locked(self, name: str, waiting: Callable[[], object]) -> Iterator[None]:
        """Hold a lock between processes and threads, which is free again when its holder ends, however that happens.

        Args:
            name: of the lock's file, which stays behind: removing it would race.
            waiting: called once where somebody else holds it.

        Raises:
            OutputError: the file cannot be made, or the file system knows no locks.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self.path / name, mode=0o600)
        try:
            try:
                lock.acquire(blocking=False)
            except Timeout:
                waiting()
                lock.acquire()
        except (OSError, NotImplementedError) as err:
            reason = (getattr(err, "strerror", None) or str(err)).lower()
            raise OutputError(
                f"cannot lock {self.path / name}: {reason}; name another folder in {CACHE_VARIABLE}"
            ) from err
        try:
            yield
        finally:
            lock.release()

    def remove(self, name: str) -> None:
        """Remove a file, where it is there.

        Raises:
            OutputError: no permission.
        """
        try:
            (self.path / name).unlink(missing_ok=True)
        except OSError as err:
            raise OutputError(f"cannot remove {self.path / name}: {(err.strerror or str(err)).lower()}") from err


def _no_link(name: str, flags: int) -> int:
    """Open a file itself, never what a link points to, and without waiting for the writer of a pipe."""
    return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


def _check_private(place: Path, found: os.stat_result) -> None:
    if not (stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)):
        raise MachineError(f"{place} must be a regular file or folder of this user's; remove it, and it is made again")
    if sys.platform == "win32":
        return
    if found.st_uid != os.geteuid():
        raise MachineError(
            f"{place} belongs to another user (number {found.st_uid}), so nothing in it is trusted; "
            f"name a folder of your own: {CACHE_VARIABLE}=DIR"
        )
    if found.st_mode & _OTHERS_WRITE:
        raise MachineError(
            f"others may write to {place} (mode {stat.S_IMODE(found.st_mode):04o}), so nothing in it is trusted; "
            f"remove what is in it and then: chmod go-w '{place}'"
        )
