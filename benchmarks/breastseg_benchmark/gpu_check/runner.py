"""Every step in a process of its own, with its own time limit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import IO, Protocol

from breastseg_benchmark.gpu_check.step import Finding, Settings, Step
from breastseg_deploy.progress import Progress

Start = Callable[[Step, Settings], Sequence[str]]

_DYING_S = 10.0
"""A process that is killed inside a driver that hangs may never end; nobody waits longer for it."""


def module_command(step: Step, settings: Settings) -> Sequence[str]:
    """The command that runs a step."""
    return [sys.executable, "-m", "breastseg_benchmark.gpu_check", step.name, json.dumps(asdict(settings))]


def run_steps(
    steps: Iterable[Step],
    settings: Settings,
    say: Callable[[str], object],
    command: Start = module_command,
    keep: Callable[[Mapping[str, Finding]], object] = lambda found: None,
) -> dict[str, Finding]:
    """Run the steps in order; none stops the next.

    Args:
        steps: to run.
        settings: for each of them.
        say: told one line per step.
        command: gives the command of a step.
        keep: given all findings so far after each step, so that whatever ends the check costs one step.
    """
    found: dict[str, Finding] = {}
    for step in steps:
        finding = found[step.name] = _run(step, command(step, settings))
        keep(found)
        say(f"{finding.verdict:8}{step.name:18}{finding.seconds:7.1f} s  {finding.words}")
    return found


def _run(step: Step, command: Sequence[str]) -> Finding:
    """The finding of a step. It speaks into files: a pipe would stay open as long as a process that it started."""
    started, code = time.perf_counter(), None
    with Progress(step.name), tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
        )  # of its own, so that all that it starts can be ended with it
        try:
            with suppress(subprocess.TimeoutExpired):
                code = process.wait(step.limit_s)
        finally:
            is_over = ended(process)
        said = _text(out), _text(err)
    seconds = time.perf_counter() - started
    if code is None:
        how = "was ended" if is_over else "cannot be ended: see `nvidia-smi` and the system's log"
        return Finding("failed", f"took longer than its limit of {step.limit_s:g} s and {how}", {}, seconds)
    return replace(_told(said[0]) or Finding("failed", _last_words(code, said[1])), seconds=seconds)


class Running(Protocol):
    """What `ended` needs of a `subprocess.Popen` that began a session of its own."""

    @property
    def pid(self) -> int:
        """Of the process, and of its group."""

    def kill(self) -> None:
        """End it."""

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, or TimeoutExpired."""


def ended(process: Running, patience_s: float = _DYING_S) -> bool:
    """End a step's process with all that it has started; whether it is over now."""
    with suppress(ProcessLookupError, PermissionError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")  # libraries print what they like


def _told(stdout: str) -> Finding | None:
    """The finding in the last line of what a step printed; libraries may have printed before it."""
    lines = stdout.strip().splitlines()
    try:
        return Finding(**json.loads(lines[-1])) if lines else None
    except (ValueError, TypeError):
        return None


def _last_words(code: int, stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return f"its process {how}{': ' + lines[-1] if lines else ''}"[:600]
