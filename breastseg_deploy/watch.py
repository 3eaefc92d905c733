"""A folder that a scanner writes into: which files are whole, and one mask for each of them."""

from __future__ import annotations

import math
import os
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from breastseg_deploy.errors import ClosedError, FrameError, OutputError
from breastseg_deploy.events import Delivered, Event, Failed, Snapshot
from breastseg_deploy.io.images import SUFFIXES, FrameFile, png_bytes, read_rgb
from breastseg_deploy.io.png_text import text_of, with_text
from breastseg_deploy.segmenter import Segmenter
from breastseg_deploy.storage import write_whole
from breastseg_deploy.stream import Stream

POLL_S = 0.5
"""From one look into the folder to the next; a file whose size and time are the same in two looks may be whole."""
SETTLE_S = 5.0
"""How long a file must be unchanged before it is called unreadable: until then, its writer may only have paused."""
RETRY_S = 10.0
"""After a mask could not be written, such as on a full disk, until it is tried again."""
MADE_OF = "breastseg:made-of"
"""The key in a mask's PNG under which the size and time of its frame's file stand: that mask is not made again."""
_UNDER_WAY = 4

Kind = Literal["mask", "unreadable", "failed", "cannot_write", "writing_again", "no_folder", "folder_again"]


@dataclass(frozen=True)
class News:
    """Something that happened, once: what to tell of it."""

    kind: Kind
    frame: Path | None = None
    mask: Path | None = None
    error: str | None = None
    age_s: float | None = None


@dataclass
class _File:
    """What is known of one file of the folder."""

    path: Path
    mark: str
    inode: int
    since: float
    state: Literal["new", "due", "given", "done"] = "new"


class Folder:
    """The frames of a folder, each given once when it is whole, and again when its content changes.

    Args:
        place: the folder; folders inside it and hidden files are passed over.
        output: where masks go; frames whose mask there says that it is theirs are done already.
    """

    def __init__(self, place: Path, output: Path) -> None:
        self._place, self._output = place, output
        self._files: dict[str, _File] = {}
        self.found_done = 0

    def look(self, now: float) -> list[_File]:
        """The files that may be whole now, the one that was seen first first.

        Raises:
            OSError: the folder cannot be read.
        """
        seen = self._seen(now)
        self._files = {name: self._update(name, file) for name, file in seen.items()}
        due = [file for file in self._files.values() if file.state == "due"]
        for file in due:
            file.state = "given"
        return sorted(due, key=lambda file: (file.since, file.path.name))

    def is_as_it_was(self, file: _File) -> bool:
        """Whether a file still has the content that it was given for, as far as its size and time tell."""
        try:
            found = file.path.stat()
        except OSError:
            return False
        return (_mark(found), found.st_ino) == (file.mark, file.inode)

    def target(self, file: _File) -> Path:
        """Where its mask goes."""
        return self._output / f"{file.path.stem}.png"

    def obstacle(self, file: _File) -> str | None:
        """Why its mask may not be written: it would replace what is not a mask of ours, or another frame's."""
        target = self.target(file)
        if not target.exists():
            return None
        made_of = text_of(target, MADE_OF)
        if made_of is None:
            return (
                f"{target} is there already and no mask of `breastseg watch`; move it away, or choose another --output"
            )
        if not made_of.startswith(_named(file)):
            return f"{target} is the mask of {made_of.partition(': ')[0]}; give one of the two frames another name"
        return None

    def rests(self) -> bool:
        """Whether every file is done, or was given and is not back."""
        return all(file.state == "done" for file in self._files.values())

    def _seen(self, now: float) -> dict[str, _File]:
        seen = {}
        with os.scandir(self._place) as entries:
            for entry in entries:
                path = Path(entry.path)
                if entry.name.startswith(".") or path.suffix.lower() not in SUFFIXES:
                    continue
                try:
                    found = entry.stat()
                    is_file = entry.is_file()
                except OSError:  # gone between two steps, or a link to nowhere
                    continue
                if is_file:
                    seen[entry.name] = _File(path, _mark(found), found.st_ino, now)
        return seen

    def _update(self, name: str, found: _File) -> _File:
        known = self._files.get(name)
        if known is None or (known.mark, known.inode) != (found.mark, found.inode):
            if text_of(self.target(found), MADE_OF) == _made_of(found):
                found.state = "done"
                self.found_done += 1
            return found
        if known.state == "new":
            known.state = "due"
        return known


class Watch:
    """One mask for each frame that appears in a folder.

    Args:
        segmenter: opened.
        place: the folder that is watched.
        output: the folder for masks; it exists.
        bit_depth: of 16-bit files.
        tell: is handed what happens, each thing once.
        clock: seconds, as time.monotonic.
        poll_s, settle_s, retry_s: see `POLL_S`, `SETTLE_S`, `RETRY_S`.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        place: Path,
        output: Path,
        *,
        bit_depth: int | None = None,
        tell: Callable[[News], object],
        clock: Callable[[], float] = time.monotonic,
        poll_s: float = POLL_S,
        settle_s: float = SETTLE_S,
        retry_s: float = RETRY_S,
    ) -> None:
        self._size_px = segmenter.manifest.frame.size_px
        self._stream: Stream = segmenter.stream("block", depth=_UNDER_WAY, probability=False, clock=clock)
        self._folder = Folder(place, output)
        self._place, self._bit_depth, self._tell, self._clock = place, bit_depth, tell, clock
        self._poll_s, self._settle_s, self._retry_s = poll_s, settle_s, retry_s
        self._queue: deque[_File] = deque()
        self._under_way: dict[int, _File] = {}
        self._next_look = self._not_before = -math.inf
        self._cannot_write = self._no_folder = False
        self._counts: Counter[str] = Counter()

    def step(self) -> None:
        """Look into the folder where that is due, hand frames in, and write one mask where one is there.

        It takes at most about `poll_s`, or what reading a frame or writing a mask takes.

        Raises:
            ClosedError: the Segmenter cannot compute any more.
        """
        if not self._queue and self._clock() >= self._next_look:
            self._look()
        if self._queue and len(self._under_way) < _UNDER_WAY and self._clock() >= self._not_before:
            self._hand_in(self._queue.popleft())
            event = self._stream.take(0)
        else:
            event = self._stream.take(self._poll_s)
        if event is not None:
            self._finish(event)

    @property
    def rests(self) -> bool:
        """Whether there is nothing to do until the folder changes."""
        has_looked = self._next_look > -math.inf and not self._no_folder
        return has_looked and not self._queue and not self._under_way and self._folder.rests()

    @property
    def cannot_write(self) -> bool:
        """Whether the last mask could not be written."""
        return self._cannot_write

    def snapshot(self) -> tuple[Snapshot, dict[str, int]]:
        """The stream's counters, and files by what became of them."""
        kinds = ("mask", "unreadable", "failed", "cannot_write")
        return self._stream.snapshot(), {
            **{kind: self._counts[kind] for kind in kinds},
            "found_done": self._folder.found_done,
        }

    def close(self) -> None:
        """Write the masks of the frames that are under way, and end.

        Raises:
            ClosedError: the Segmenter cannot compute any more.
        """
        self._stream.close()
        while (event := self._stream.take(0)) is not None:
            self._finish(event)

    def _look(self) -> None:
        try:
            self._queue.extend(self._folder.look(self._clock()))
        except OSError as err:
            if not self._no_folder:
                self._say(News("no_folder", error=f"cannot read {self._place}: {(err.strerror or str(err)).lower()}"))
            self._no_folder = True
        else:
            if self._no_folder:
                self._say(News("folder_again"))
            self._no_folder = False
        self._next_look = self._clock() + self._poll_s

    def _hand_in(self, file: _File) -> None:
        obstacle = self._folder.obstacle(file)
        if obstacle is not None:
            self._give_up(file, "failed", obstacle)
            return
        if not self._folder.is_as_it_was(file):  # gone, or another one by now: the next look sees it
            file.state = "new"
            return
        try:
            rgb = read_rgb(FrameFile(file.path), self._size_px, self._bit_depth)
        except (FrameError, MemoryError) as err:
            if self._clock() - file.since >= self._settle_s:
                self._give_up(file, "unreadable", str(err) or "it needs more memory than there is")
            else:
                file.state = "new"
            return
        if not self._folder.is_as_it_was(file):  # it was still being written; the next look sees its new size
            file.state = "new"
            return
        answer = self._stream.submit(rgb, acquired_at=file.since)
        if answer and isinstance(answer.id, int):
            self._under_way[answer.id] = file
        else:
            file.state = "new"

    def _finish(self, event: Event) -> None:
        file = self._under_way.pop(event.id) if isinstance(event.id, int) else None
        if file is None:
            return
        if isinstance(event, Delivered):
            self._write(file, event)
        elif isinstance(event, Failed) and isinstance(event.error, ClosedError):
            raise event.error
        elif isinstance(event, Failed):
            self._give_up(file, "failed", str(event.error))
        else:
            file.state = "new"

    def _write(self, file: _File, event: Delivered) -> None:
        target = self._folder.target(file)
        obstacle = self._folder.obstacle(file)  # asked again: a frame that was under way beside it may be there now
        if obstacle is not None:
            self._give_up(file, "failed", obstacle)
            return
        try:
            write_whole(target, with_text(png_bytes(event.mask * 255), MADE_OF, _made_of(file)))
        except OutputError as err:
            # Not done: it is computed again then, which is little beside keeping masks that nobody can write.
            file.state = "due"
            self._not_before = self._clock() + self._retry_s
            self._counts["cannot_write"] += 1
            if not self._cannot_write:
                self._tell(News("cannot_write", file.path, target, f"{err} (it is tried again until it can)"))
            self._cannot_write = True
            return
        if self._cannot_write:
            self._tell(News("writing_again"))
        self._cannot_write = False
        file.state = "done"
        self._say(News("mask", file.path, target, age_s=event.age_s))

    def _give_up(self, file: _File, kind: Kind, why: str) -> None:
        """Until its content changes."""
        file.state = "done"
        text = why if str(file.path) in why else f"{file.path}: {why}"
        self._say(News(kind, file.path, error=text))

    def _say(self, news: News) -> None:
        self._counts[news.kind] += 1
        self._tell(news)


def _mark(found: os.stat_result) -> str:
    return f"{found.st_size} bytes, modified {found.st_mtime_ns} ns"


def _made_of(file: _File) -> str:
    return f"{_named(file)}{file.mark}"


def _named(file: _File) -> str:
    """Latin-1, whatever the name is."""
    return f"{file.path.name.encode('ascii', 'backslashreplace').decode()}: "
