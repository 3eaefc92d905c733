"""This machine, as far as what serves on it depends on it: its GPU, its processor, its private cache folder."""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from breastseg_deploy.errors import MachineError
from breastseg_deploy.nvidia import Gpu, NoGpu, look_for_gpu

CACHE_VARIABLE = "BREASTSEG_CACHE"

_LINUX = Path("/proc/cpuinfo")
_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16"})
"""Flags of Linux for instructions that multiply in bfloat16."""


@dataclass(frozen=True)
class Processor:
    """What CPU backends run on.

    Attributes:
        name: as its maker calls it, e.g. "Intel(R) Core(TM) i7-12700"; the architecture where the system does not say.
        cores: that this process may use.
        instructions: a short hash of the instruction sets that the system shows, which virtual machines on processors
            of one name may differ in; empty where it does not say.
        bfloat16: whether it multiplies in bfloat16 (AVX512_BF16, AMX); None where the system does not say.
    """

    name: str
    cores: int
    instructions: str = ""
    bfloat16: bool | None = None

    def __str__(self) -> str:
        return f"{self.name}, {self.cores} cores, instructions {self.instructions or 'unknown'}"


class Machine:
    """Where a bundle is opened. What is not given is asked of this machine, once, when it is first needed.

    Args:
        gpu: the GPU that serves, or why there is none.
        processor: that CPU backends run on.
        cache: the private folder for engines and verdicts; see `cache_place`.
    """

    def __init__(
        self, *, gpu: Gpu | NoGpu | None = None, processor: Processor | None = None, cache: Path | None = None
    ) -> None:
        self._gpu, self._processor, self._cache = gpu, processor, cache

    @cached_property
    def gpu(self) -> Gpu | NoGpu:
        """The GPU that serves, or why there is none."""
        return look_for_gpu() if self._gpu is None else self._gpu

    @cached_property
    def processor(self) -> Processor:
        """The processor that this process runs on."""
        return this_processor() if self._processor is None else self._processor

    @property
    def cache(self) -> Path:
        """The private folder for engines and verdicts.

        Raises:
            MachineError: there is no place for one.
        """
        return cache_place() if self._cache is None else self._cache


def this_processor(told_by: Path = _LINUX) -> Processor:
    """The processor that this process runs on.

    Args:
        told_by: where Linux describes its cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    told = _first_core(told_by)
    flags = told.get("flags") or told.get("Features") or ""
    instructions = hashlib.sha256(flags.encode()).hexdigest()[:8] if flags else ""
    bfloat16 = not _BFLOAT16.isdisjoint(flags.split()) if flags else None
    return Processor(
        told.get("model name") or platform.processor() or platform.machine(), cores, instructions, bfloat16
    )


def cache_place() -> Path:
    """Where this machine keeps engines and verdicts: BREASTSEG_CACHE, else breastseg in XDG_CACHE_HOME or ~/.cache.

    Raises:
        MachineError: none of them is known.
    """
    own = os.environ.get(CACHE_VARIABLE)
    if own:
        return Path(own).absolute()
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if shared.is_absolute():  # the specification: relative ones are ignored
        return shared / "breastseg"
    try:
        return Path.home() / ".cache" / "breastseg"
    except RuntimeError as err:
        raise MachineError(
            f"this user has no home folder to keep engines and verdicts in; name one: {CACHE_VARIABLE}=DIR"
        ) from err


def _first_core(told_by: Path) -> dict[str, str]:
    """What the system says of its first core; nothing where it says nothing."""
    try:
        first_core = told_by.read_text(errors="replace").partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first_core.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
