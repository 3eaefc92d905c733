"""The folder of a run: whose it is, where it stands, and that nobody else works in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from breastseg_deploy.errors import OutputError
from breastseg_deploy.storage import make_folder, write_whole
from breastseg_deploy.unfinished import TryLock, try_lock

RESULT = "result.json"
UNFINISHED = "unfinished"
"""Inside the folder of a slide: what a run needs to go on. It goes away when the result is written."""
_RUN, _LOCK, _FILES = "run.json", "lock", "files"


class RunFolder:
    """The folder of one slide's results. A run holds it by `claimed`.

    Args:
        path: of the folder.
        provenance: all that the result depends on; JSON values.
    """

    def __init__(self, path: Path, provenance: Mapping[str, Any]) -> None:
        self.path, self.work = path, path / UNFINISHED
        self.provenance: dict[str, Any] = json.loads(json.dumps(provenance))  # as it will be read back

    @contextmanager
    def claimed(self, try_lock: TryLock = try_lock) -> Iterator[dict[str, Any] | None]:
        """Hold the folder, and give the result that stands there already; None where there is work to do.

        Args:
            try_lock: where it raises an OSError, two runs at once cannot be told and none is refused.

        Raises:
            OutputError: another process works in it; what stands there was made of something else; it cannot be
                written.
        """
        self._refuse_strangers()
        make_folder(self.work)
        release = None
        with suppress(OSError):
            release = try_lock(self.work / _LOCK)
            if release is None:
                raise OutputError(
                    f"another run works in {self.path}; wait until it has ended, or choose another --output"
                )
        try:
            yield self._finished()
        finally:
            if not (self.work / _RUN).exists():  # nothing was begun: a refused run leaves no trace
                self.clear()
            if release is not None:
                release()

    def begin(self) -> datetime:
        """Say whose the unfinished work is, or check that it is this run's; gives the time when it began.

        Raises:
            OutputError: it is another's.
        """
        place = self.work / _RUN
        if not place.exists():
            now = datetime.now(UTC).isoformat(timespec="seconds")
            write_whole(place, _bytes({"begun": now, "provenance": self.provenance}))
        record = _json(place)
        self._check(record.get("provenance"), "unfinished work")
        return datetime.fromisoformat(record["begun"])

    @property
    def files(self) -> Path:
        """Where the result's files are written; it has the folder's own name. `finish` moves them."""
        return self.work / _FILES / self.path.name

    def fresh_files(self) -> Path:
        """The same, empty: what a killed call has written of them may be cut off.

        Raises:
            OutputError: it cannot be made.
        """
        shutil.rmtree(self.files, ignore_errors=True)
        make_folder(self.files)
        return self.files

    def finish(self, result: Mapping[str, Any]) -> None:
        """Put all files in their places, the result last; the unfinished work goes away after it.

        Raises:
            OutputError: no permission, no space.
        """
        write_whole(self.files / RESULT, _bytes({**result, "provenance": self.provenance}))
        names = sorted(entry.name for entry in self.files.iterdir())
        try:
            for name in (*(name for name in names if name != RESULT), RESULT):
                (self.files / name).replace(self.path / name)
        except OSError as err:
            reason = (err.strerror or str(err)).lower()
            raise OutputError(f"cannot write into {self.path}: {reason}; run again when that is mended") from err
        self.clear()

    def clear(self) -> None:
        """Remove the unfinished work; its lock is held by this process."""
        shutil.rmtree(self.work, ignore_errors=True)

    def _finished(self) -> dict[str, Any] | None:
        place = self.path / RESULT
        if not place.exists():
            return None
        result: dict[str, Any] = _json(place)
        self._check(result.get("provenance"), "the result")
        return result

    def _check(self, found: Any, what: str) -> None:
        """Refuse what another run left.

        Raises:
            OutputError: it was made of something else.
        """
        if found == self.provenance:
            return
        theirs = found if isinstance(found, dict) else {}
        differ = [name for name, value in self.provenance.items() if theirs.get(name) != value]
        raise OutputError(
            f"{self.path} holds {what} of another run (other {', '.join(differ) or 'entries'}); a run goes on only "
            "with the same slide, bundle, version and parameters: choose another --output, or remove that folder"
        )

    def _refuse_strangers(self) -> None:
        """Refuse a folder that no run has made.

        Raises:
            OutputError: it is one, or cannot be looked into.
        """
        try:
            names = {entry.name for entry in self.path.iterdir()} if self.path.exists() else set()
        except OSError as err:
            reason = (err.strerror or str(err)).lower()
            raise OutputError(f"cannot look into {self.path}: {reason}; choose another --output") from err
        if names and not names & {RESULT, UNFINISHED}:
            raise OutputError(f"{self.path} holds files of something else; choose another --output, or remove it")


def _bytes(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _json(place: Path) -> Any:
    try:
        return json.loads(place.read_text("utf-8"))
    except (OSError, ValueError) as err:
        raise OutputError(f"cannot read {place} ({err}); remove its folder and run again") from err
