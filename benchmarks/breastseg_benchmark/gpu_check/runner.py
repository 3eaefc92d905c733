"""Every step in a process of its own, with its own time limit."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace

from breastseg_benchmark.gpu_check.step import Finding, Settings, Step
from breastseg_deploy.progress import Progress

Start = Callable[[Step, Settings], Sequence[str]]


def module_command(step: Step, settings: Settings) -> Sequence[str]:
    """The command that runs a step."""
    return [sys.executable, "-m", "breastseg_benchmark.gpu_check", step.name, json.dumps(asdict(settings))]


def run_steps(
    steps: Iterable[Step],
    settings: Settings,
    say: Callable[[str], object],
    command: Start = module_command,
) -> dict[str, Finding]:
    """Run the steps in order; none stops the next.

    Args:
        steps: to run.
        settings: for each of them.
        say: told one line per step.
        command: gives the command of a step.
    """
    found = {}
    for step in steps:
        finding = found[step.name] = _run(step, command(step, settings))
        say(f"{finding.verdict:8}{step.name:18}{finding.seconds:7.1f} s  {finding.words}")
    return found


def _run(step: Step, command: Sequence[str]) -> Finding:
    started = time.perf_counter()
    try:
        with Progress(step.name):
            done = subprocess.run(command, capture_output=True, text=True, timeout=step.limit_s, check=False)
    except subprocess.TimeoutExpired:
        return Finding("failed", f"took longer than its limit of {step.limit_s:g} s and was ended", {}, step.limit_s)
    finding = _told(done.stdout) or Finding("failed", _last_words(done))
    return replace(finding, seconds=time.perf_counter() - started)


def _told(stdout: str) -> Finding | None:
    """The finding in the last line of what a step printed; libraries may have printed before it."""
    lines = stdout.strip().splitlines()
    try:
        return Finding(**json.loads(lines[-1])) if lines else None
    except (ValueError, TypeError):
        return None


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    how = (
        f"was ended by signal {-done.returncode}" if done.returncode < 0 else f"ended with exit code {done.returncode}"
    )
    return f"its process {how}{': ' + lines[-1] if lines else ''}"[:600]
