"""The processor of this machine, as far as the speed and the rounding of a CPU backend hang on it."""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import dataclass
from pathlib import Path

_LINUX = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Processor:
    """What CPU backends run on.

    Attributes:
        name: as its maker calls it, e.g. "Intel(R) Core(TM) i7-12700"; the architecture where the system does not say.
        cores: that this process may use.
        instructions: a short hash of the instruction sets that the system shows, which virtual machines on processors
            of one name may differ in; empty where it does not say.
    """

    name: str
    cores: int
    instructions: str = ""

    def __str__(self) -> str:
        return f"{self.name}, {self.cores} cores, instructions {self.instructions or 'unknown'}"


def this_processor() -> Processor:
    """The processor that this process runs on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    told = _told_by_linux()
    flags = told.get("flags") or told.get("Features") or ""
    instructions = hashlib.sha256(flags.encode()).hexdigest()[:8] if flags else ""
    return Processor(told.get("model name") or platform.processor() or platform.machine(), cores, instructions)


def _told_by_linux() -> dict[str, str]:
    """What the system says of its first core."""
    try:
        first_core = _LINUX.read_text(errors="replace").partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first_core.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
