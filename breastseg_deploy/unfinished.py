"""The folder that an output grows in, beside its place: locked while its process lives, removed once that is gone."""

from __future__ import annotations

import errno
import logging
import platform
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

CONTENT, LOCK, HOST = "content", "lock", "host"

Release = Callable[[], object]
TryLock = Callable[[Path], Release | None]
"""Locks a file if it is free, and returns what gives it back; OSError where the file system knows no locks."""

_LOG = logging.getLogger("breastseg_deploy")


def try_lock(file: Path) -> Release | None:
    """See `TryLock`; the lock is free again when its process ends, however that happens."""
    from filelock import FileLock, Timeout

    lock = FileLock(file, mode=0o600)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    except NotImplementedError as err:
        raise OSError(errno.ENOLCK, str(err)) from err
    return lock.release


@contextmanager
def unfinished_folder(place: Path, try_lock: TryLock = try_lock) -> Iterator[Path]:
    """Give an empty folder beside `place`; what has not been moved out of it at the end goes away.

    Folders for the same place whose process was killed are removed first. A process number would be no evidence, as it
    is given to others and says nothing about another host: each folder holds a file that its process keeps locked, and
    the name of the host. A folder goes only where that lock is free and the host is this one, since not every network
    file system carries locks from host to host.

    Args:
        place: of the finished output; its parents are made.
        try_lock: where it raises an OSError, nothing is ever removed.

    Raises:
        OSError: the folder cannot be made.
    """
    _remove_abandoned(place, try_lock)
    with ExitStack() as stack:
        content = None
        while content is None:
            folder = place.with_name(f".{place.name}.{secrets.token_hex(4)}.partial")
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            content = _claimed(folder, try_lock, stack)
        yield content


def _claimed(folder: Path, try_lock: TryLock, stack: ExitStack) -> Path | None:
    """Make and lock a folder; None where another process looks at it just now."""
    folder.mkdir(parents=True)
    with suppress(OSError):
        release = try_lock(folder / LOCK)
        if release is None:
            return None
        stack.callback(release)
        # The name makes the folder removable, so it is written only under the lock.
        (folder / HOST).write_text(platform.node(), "utf-8")
    content = folder / CONTENT
    content.mkdir(exist_ok=True)
    return content


def _remove_abandoned(place: Path, try_lock: TryLock) -> None:
    ours = re.compile(rf"\.{re.escape(place.name)}\.[0-9a-f]{{8}}\.partial")
    with suppress(OSError):
        for folder in [beside for beside in place.parent.iterdir() if ours.fullmatch(beside.name)]:
            if not folder.is_symlink() and _is_abandoned(folder, try_lock):
                _LOG.info("removed %s: the process that filled it is gone", folder)


def _is_abandoned(folder: Path, try_lock: TryLock) -> bool:
    """Remove a folder if its process is gone, and say whether it was."""
    with suppress(OSError):
        folder.rmdir()  # killed before there was a lock; one with anything in it stays
        return True
    try:
        if not (folder / LOCK).is_file() or (folder / HOST).read_text("utf-8") != platform.node():
            return False
        release = try_lock(folder / LOCK)
    except (OSError, UnicodeDecodeError):  # not made by us, not ours to open, or no locks here: no evidence
        return False
    if release is None:
        return False
    release()
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()
