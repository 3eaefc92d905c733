"""The folder that an output grows in, beside its place: locked while its process lives, removed once that is gone."""

from __future__ import annotations

import logging
import os
import platform
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from breastseg_deploy.lock import take

CONTENT = "content"
LOCK = "lock"
_LOG = logging.getLogger("breastseg_deploy")


@contextmanager
def unfinished_folder(place: Path, take: Callable[[int], bool] = take) -> Iterator[Path]:
    """Give an empty folder beside `place`; what has not been moved out of it at the end goes away.

    Folders for the same place whose process was killed are removed first. A process number would be no evidence, as it
    is given to others and says nothing about another host: each folder holds a file that its process keeps locked, and
    the name of the host. A folder goes only where that lock is free and the host is this one, since not every network
    file system carries locks from host to host.

    Args:
        place: of the finished output; its parents are made.
        take: see `lock.take`. Where the file system knows no locks, nothing is ever removed.

    Raises:
        OSError: the folder cannot be made.
    """
    _remove_abandoned(place, take)
    with ExitStack() as stack:
        content = None
        while content is None:
            folder = place.with_name(f".{place.name}.{secrets.token_hex(4)}.partial")
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            content = _claimed(folder, take, stack)
        yield content


def _claimed(folder: Path, take: Callable[[int], bool], stack: ExitStack) -> Path | None:
    """Make and lock a folder; None where another process looks at it just now, or took it for abandoned."""
    folder.mkdir(parents=True)
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except FileNotFoundError:
        return None
    stack.callback(os.close, lock)
    with suppress(OSError):
        if not take(lock):
            return None
        # The name makes the folder removable, so it is written only under the lock.
        os.write(lock, _host())
    content = folder / CONTENT
    content.mkdir()
    return content


def _remove_abandoned(place: Path, take: Callable[[int], bool]) -> None:
    ours = re.compile(rf"\.{re.escape(place.name)}\.[0-9a-f]{{8}}\.partial")
    with suppress(OSError):
        for folder in [beside for beside in place.parent.iterdir() if ours.fullmatch(beside.name)]:
            if not folder.is_symlink() and _is_abandoned(folder, take):
                _LOG.info("removed %s: the process that filled it is gone", folder)


def _is_abandoned(folder: Path, take: Callable[[int], bool]) -> bool:
    """Remove a folder if its process is gone, and say whether it was."""
    with suppress(OSError):
        folder.rmdir()  # killed before there was a lock; one with anything in it stays
        return True
    try:
        lock = os.open(folder / LOCK, os.O_RDWR)
    except OSError:  # not made by us, or not ours to open
        return False
    try:
        abandoned = take(lock) and os.read(lock, 1000) == _host()
        if abandoned:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # no locks here: no evidence either
        return False
    finally:
        os.close(lock)
    if abandoned:
        shutil.rmtree(folder, ignore_errors=True)  # once more, as Windows keeps an open file
    return abandoned


def _host() -> bytes:
    return f"{platform.node()}\n".encode()
