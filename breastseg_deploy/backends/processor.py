"""The processor of this machine, as far as the speed and the rounding of a CPU backend hang on it."""

from __future__ import annotations

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
    """

    name: str
    cores: int

    def __str__(self) -> str:
        return f"{self.name}, {self.cores} cores"


def this_processor() -> Processor:
    """The processor that this process runs on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Processor(_linux_name() or platform.processor() or platform.machine(), cores)


def _linux_name() -> str:
    try:
        lines = _LINUX.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else ""
