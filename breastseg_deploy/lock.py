"""A lock between processes, by a file: it is free again when its holder ends, however that happens."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from breastseg_deploy.errors import OutputError

_BUSY = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
_ASK_AGAIN_S = 0.1


@contextmanager
def lock_held(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of a file, which is made where there is none and stays behind (removing it would race).

    Args:
        path: of the lock file.
        waiting: called once where another process, or another thread, holds it.

    Raises:
        OutputError: the file cannot be made or the file system knows no locks.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as err:
        raise _unlockable(path, err) from err
    try:
        told = False
        while not _taken(descriptor, path):
            if not told:
                waiting()
                told = True
            time.sleep(_ASK_AGAIN_S)
        yield
    finally:
        os.close(descriptor)  # which gives the lock back


def take(descriptor: int) -> bool:
    """Take the lock of an open file if it is free; closing the file gives it back.

    Raises:
        OSError: the file system knows no locks.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as err:
        if err.errno in _BUSY:
            return False
        raise
    return True


def _taken(descriptor: int, path: Path) -> bool:
    try:
        return take(descriptor)
    except OSError as err:
        raise _unlockable(path, err) from err


def _unlockable(path: Path, err: OSError) -> OutputError:
    return OutputError(
        f"cannot lock {path}: {(err.strerror or str(err)).lower()}; name another folder in BREASTSEG_CACHE"
    )
