"""Writing so that a file or folder is there whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile

from breastseg_deploy.errors import OutputError
from breastseg_deploy.unfinished import unfinished_folder

_PARTIAL = re.compile(r"\..+\.[0-9a-f]{8}\.partial")
_ABANDONED_S = 3600.0
_NAME_LENGTH = 50
"""Characters of a file's name in its partial's name, which has no more than 255 bytes then: one takes up to 4."""


def write_whole(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write a file beside its place and rename it into it: readers see the old file, the new one, or none.

    Args:
        path: the file's place.
        content: of the file.
        private: whether nobody but the user may read or write it (mode 0600, where the system has modes).

    Raises:
        OutputError: no permission, no space, no such folder.
    """
    beside = path.with_name(f".{path.name[:_NAME_LENGTH]}.{secrets.token_hex(4)}.partial")
    try:
        mode = 0o600 if private else 0o666
        with open(beside, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as err:
        raise OutputError(
            f"cannot write {path}: {_reason(err)}; nothing was left half-written: make room or choose another place"
        ) from err
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


@contextmanager
def file_written_whole(path: Path) -> Iterator[Path]:
    """Give the place of a file too large to hold, and rename what was written there to `path` once the block ends.

    With an error, or Ctrl-C, what was written goes away and whatever stood at `path` stays as it was. What a killed
    process left beside `path` goes away at the next call.

    Raises:
        OutputError: no permission, no space. Any OSError inside the block is taken for one of these.
    """
    try:
        with unfinished_folder(path) as folder:
            growing = folder / path.name
            yield growing
            with growing.open("rb+") as file:
                os.fsync(file.fileno())
            growing.replace(path)
    except OSError as err:
        raise OutputError(
            f"cannot write {path}: {_reason(err)}; nothing was left half-written: make room or choose another place"
        ) from err


def clear_partials(folder: Path) -> None:
    """Remove what killed processes left of files that `write_whole` wrote there: it is named so, and over an hour old.

    A living process has such a file for a moment.
    """
    with suppress(OSError):
        for path in [path for path in folder.iterdir() if _PARTIAL.fullmatch(path.name)]:
            with suppress(OSError):
                found = path.lstat()
                if stat.S_ISREG(found.st_mode) and time.time() - found.st_mtime > _ABANDONED_S:
                    path.unlink()


def check_output_folder(path: Path, *, force: bool) -> None:
    """Refuse an output place that holds something already, unless told to use it all the same.

    Raises:
        OutputError: a file of that name, or a folder that is not empty and `force` is off.
    """
    try:
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise OutputError(f"{path} must be a folder or not exist yet, got a file or link; choose another --output")
        if path.is_dir() and any(path.iterdir()) and not force:
            raise OutputError(f"the output folder {path} is not empty; empty it, choose another, or pass --force")
    except OSError as err:
        raise OutputError(f"cannot look into {path}: {_reason(err)}; choose another --output") from err


def check_output_file(path: Path) -> None:
    """Refuse, before long work, a file that exists or cannot be written; its folder is made.

    Raises:
        OutputError: something stands there, or the folder cannot be made or written to.
    """
    if path.exists() or path.is_symlink():
        raise OutputError(f"{path} exists and may be in use; choose another --output")
    make_folder(path.parent)
    check_place(path)


def check_place(path: Path) -> None:
    """Refuse, before long work, a place that takes no file; a file that stands there may be replaced.

    Raises:
        OutputError: a folder stands there, or its own folder is missing or cannot be written to.
    """
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder; name a file in it")
    try:
        with TemporaryFile(dir=path.parent):
            pass
    except OSError as err:
        raise OutputError(f"cannot write {path}: {_reason(err)}; make its folder or choose another place") from err


def check_replaceable(path: Path, foreign: Callable[[Path], str | None]) -> None:
    """Refuse to replace a folder that is not what will take its place: --force must not delete a home.

    Args:
        path: the output folder.
        foreign: says what a folder that is not empty holds or lacks, unlike such an output; None where it is one.

    Raises:
        OutputError: `path` holds something that is no such output, or cannot be looked into.
    """
    try:
        held = foreign(path) if path.is_dir() and any(path.iterdir()) else None
    except OSError as err:
        raise OutputError(f"cannot look into {path}: {_reason(err)}; choose another --output") from err
    if held is not None:
        raise OutputError(f"{path} holds {held}, so --force will not delete it; choose another --output")


@contextmanager
def folder_written_whole(path: Path, *, force: bool) -> Iterator[Path]:
    """Give an empty folder to fill, and put it in the place of `path` once the block ends without an error.

    With an error, or Ctrl-C, the unfinished folder goes away and whatever stood at `path` stays as it was. What a
    killed process left beside `path` goes away at the next call.

    Raises:
        OutputError: see `check_output_folder`; no permission, no space; the working folder or one that holds it;
            without `force`, another process that put something there in the meantime.
    """
    check_output_folder(path, force=force)
    place = path.resolve()
    if place in (Path.cwd(), *Path.cwd().parents):
        raise OutputError(f"{path} is the working folder or holds it and cannot be replaced; choose a folder inside it")
    missing_parents = [parent for parent in place.parents if not parent.exists()]  # the deepest first
    try:
        try:
            with unfinished_folder(place) as unfinished:
                yield unfinished
                check_output_folder(path, force=force)  # once more: another process may have been faster
                _replace_folder(unfinished, place, force=force)
        except OSError as err:
            raise OutputError(
                f"cannot write {path}: {_reason(err)}; nothing was left half-written: make room or choose another place"
            ) from err
    finally:
        for parent in missing_parents:
            with suppress(OSError):  # one that holds the output now, or something else, stays
                parent.rmdir()


def make_folder(path: Path) -> None:
    """Make a folder and its parents where they do not exist.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise OutputError(f"cannot make the folder {path}: {_reason(err)}; choose another --output") from err


def _replace_folder(new: Path, place: Path, *, force: bool) -> None:
    """Rename `new` to `place`; what stood there goes away only after the new folder is in its place."""
    if not (force and place.exists()):
        with suppress(OSError):
            place.rmdir()  # an empty folder; one that was filled a moment ago stays and lets the renaming fail
        new.rename(place)
        return
    old = place.with_name(f".{place.name}.{secrets.token_hex(4)}.old")
    try:
        place.rename(old)
        new.rename(place)
    except BaseException:  # Ctrl-C as well
        if not place.exists():
            with suppress(OSError):
                old.rename(place)
        raise
    finally:
        if place.exists():
            shutil.rmtree(old, ignore_errors=True)


def _reason(err: OSError) -> str:
    return (err.strerror or str(err)).lower()
