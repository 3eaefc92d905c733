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
    '''Openings for writing and new folders under `place` are writes; number `at` fails, or kills the process.'''
    def __init__(self):
        self.place, self.at, self.seen, self.kills = None, None, 0, False
        sys.addaudithook(self)
    def begin(self, place, at):
        self.place, self.at, self.seen = str(place), at, 0
    def __call__(self, event, arguments):
        if self.place is None or event not in ("open", "os.mkdir") or not str(arguments[0]).startswith(self.place):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        self.seen += 1
        if self.seen == self.at and self.kills:
            os.kill(os.getpid(), 9)
        if self.seen == self.at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))

disk = FullDisk()
"""
"""Python raises what an audit hook raises, so no function of ours or of a library is replaced for it."""


def child(code: str, *words: object, cache: Path, timeout_s: float = 1800) -> subprocess.CompletedProcess[str]:
    """Python code in a process of its own, with a cache folder of its own."""
    command = [sys.executable, "-c", code, *map(str, words)]
    environment = {**os.environ, "BREASTSEG_CACHE": str(cache)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=timeout_s)


def findings(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """The JSON lines that a child printed with the mark "found"."""
    assert done.returncode == 0, done.stderr
    return [json.loads(line.removeprefix("found ")) for line in done.stdout.splitlines() if line.startswith("found ")]
