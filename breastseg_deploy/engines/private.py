"""A folder that is this user's alone: engines are native code, and what others could have put there is never loaded."""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from breastseg_deploy.errors import MachineError, OutputError
from breastseg_deploy.storage import write_whole

CACHE_VARIABLE = "BREASTSEG_CACHE"

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def cache_place() -> Path:
    """Where this machine keeps engines: BREASTSEG_CACHE, else breastseg in XDG_CACHE_HOME, else in ~/.cache.

    Raises:
        MachineError: none of them is known.
    """
    own = os.environ.get(CACHE_VARIABLE)
    if own:
        return Path(own).absolute()
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if shared.is_absolute():  # the specification: relative ones are ignored
        return shared / "breastseg"
    try:
        return Path.home() / ".cache" / "breastseg"
    except RuntimeError as err:
        raise MachineError(f"this user has no home folder to keep engines in; name one: {CACHE_VARIABLE}=DIR") from err


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
                f"cannot make the engine cache {path}: {(err.strerror or str(err)).lower()}; "
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
        """Write a file whole.

        Raises:
            OutputError: no permission, no space.
        """
        write_whole(self.path / name, content, private=True)

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
            f"{place} belongs to another user (number {found.st_uid}), so no engine in it is trusted; "
            f"name a folder of your own: {CACHE_VARIABLE}=DIR"
        )
    if found.st_mode & _OTHERS_WRITE:
        raise MachineError(
            f"others may write to {place} (mode {stat.S_IMODE(found.st_mode):04o}), so no engine in it is trusted; "
            f"remove what is in it and then: chmod go-w '{place}'"
        )
