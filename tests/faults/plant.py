"""Faults for child processes: a disk that is full at the n-th write, and what a test reads of what came of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

FULL_DISK = """
import errno, json, os, sys

class FullDisk:
    '''Openings for writing and new folders under `place` are writes; number `at` fails, or brings a signal.'''
    def __init__(self):
        self.place, self.at, self.seen, self.signal = None, None, 0, 0
        sys.addaudithook(self)
    def begin(self, place, at):
        self.place, self.at, self.seen = str(place), at, 0
    def __call__(self, event, arguments):
        if self.place is None or event not in ("open", "os.mkdir") or not str(arguments[0]).startswith(self.place):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        self.seen += 1
        if self.seen == self.at and self.signal:
            os.kill(os.getpid(), self.signal)
        elif self.seen == self.at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))

disk = FullDisk()
"""
"""Python raises what an audit hook raises, so no function of ours or of a library is replaced for it."""

EACH_WRITE = """
import errno, io, json, os, pathlib, shutil, signal, sys, threading
from contextlib import redirect_stderr, redirect_stdout
from breastseg_benchmark import kill

class EachWrite:
    '''At each opening for writing, new folder and renaming under `place`, a fork of the process finds the disk full.

    The parent goes on with the folder as it was, so one run shows what comes of a full disk at each of its writes.
    What lies there at that moment is also what SIGKILL would leave: the fork looks at it first.
    '''
    def __init__(self, place, problems):
        self.place, self.problems, self.at, self.last, self.rests = str(place), problems, 0, None, False
        self.aside = str(place) + ".aside"
        os.makedirs(place)
        sys.addaudithook(self)
    def __call__(self, event, arguments):
        if self.rests or event not in ("open", "os.mkdir", "os.rename"):
            return
        path = str(arguments[0])
        if not path.startswith(self.place + os.sep) or path.endswith(("/lock", "/host")):  # without these it goes on
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        if (event, path) == self.last:  # an opener of its own: two events for one opening
            return
        assert threading.current_thread() is threading.main_thread(), path
        self.at, self.last, self.rests = self.at + 1, (event, path), True
        shutil.copytree(self.place, self.aside, copy_function=os.link)
        sys.stdout.flush()
        fork = os.fork()
        if fork == 0:
            signal.alarm(300)
            self.killed = self.problems()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        os.waitpid(fork, 0)
        shutil.rmtree(self.place)
        os.rename(self.aside, self.place)
        self.rests = False

def run(victim, place):
    parent, told, disk = os.getpid(), io.StringIO(), EachWrite(place, victim.problems)
    sys.argv[1:] = victim.words
    try:
        with redirect_stderr(told), redirect_stdout(io.StringIO()):
            exec(victim.code, {})
    except SystemExit as end:
        code = end.code
    disk.rests = True
    left = sorted(path.relative_to(place).as_posix() for path in pathlib.Path(place).rglob("*") if path.is_file())
    found = dict(at=disk.at, write=disk.last[0] + " " + os.path.basename(disk.last[1]), code=code, left=left,
                 told=told.getvalue().splitlines()[-1:], problems=victim.problems())
    if os.getpid() != parent:
        found["killed"] = disk.killed
    os.write(1, ("found " + json.dumps(found) + "\\n").encode())
    os._exit(0)
"""
"""Faster by far than a run for each write, which is an export or a training each time."""


def child(code: str, *words: object, cache: Path, timeout_s: float = 1800) -> subprocess.CompletedProcess[str]:
    """Python code in a process of its own, with a cache folder of its own."""
    command = [sys.executable, "-c", code, *map(str, words)]
    environment = {**os.environ, "BREASTSEG_CACHE": str(cache)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=timeout_s)


def findings(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """The JSON lines that a child printed with the mark "found"."""
    assert done.returncode == 0, done.stderr
    return [json.loads(line.removeprefix("found ")) for line in done.stdout.splitlines() if line.startswith("found ")]
