"""A `.cu` file compiled for the CPU by g++, once for each source, and its kernels called as a GPU would be."""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import platform
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

HEADER = Path(__file__).with_name("cuda_cpu.h")
_KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\s*\(')
_FLAGS = ("-std=c++17", "-O3", "-march=x86-64-v3", "-shared", "-fPIC", "-w")
_OBJECTS = Path(tempfile.mkdtemp(prefix="cuda-cpu-"))
atexit.register(shutil.rmtree, _OBJECTS, ignore_errors=True)
_LIBRARIES: dict[str, ctypes.CDLL] = {}
_ONE_LAUNCH_AT_A_TIME = threading.RLock()


def why_not() -> str | None:
    """Why this machine cannot run kernels on its CPU; None where it can."""
    if shutil.which("g++") is None:
        return "no C++ compiler (g++) on this machine"
    if platform.machine() != "x86_64":
        return f"the fibers switch by x86-64 assembly, this is {platform.machine()}"
    return None


class KernelError(RuntimeError):
    """A barrier that not all threads reach, threads at different barriers, or a wrong number of arguments."""


class CpuModule:
    """The kernels of one source.

    Args:
        source: CUDA C++; compiled as it is, with `cuda_cpu.h` before it.
        options: compiler options; of these, the definitions (-D...) reach g++.
        backwards: run the threads of a block last to first; only a source that lacks a barrier notices.

    Raises:
        RuntimeError: g++ refuses the source; the message holds what it said.
    """

    def __init__(self, source: str, options: Sequence[str] = (), *, backwards: bool = False) -> None:
        self.backwards = backwards
        self._library = _compiled(source, [option for option in options if option.startswith("-D")])

    def call(
        self, name: str, grid: Sequence[int], block: Sequence[int], arguments: Sequence[ctypes._SimpleCData[Any]]
    ) -> None:
        """Run a kernel over a grid; arguments are ctypes values of the kernel's own parameter types.

        Raises:
            KernelError: see there.
        """
        shape = (ctypes.c_uint * 6)(*_three(grid), *_three(block))
        pointers = (ctypes.c_void_p * len(arguments))(
            *[ctypes.cast(ctypes.byref(value), ctypes.c_void_p) for value in arguments]
        )
        message = ctypes.create_string_buffer(256)
        launch = getattr(self._library, f"{name}_on_cpu")
        with _ONE_LAUNCH_AT_A_TIME:
            failed = launch(shape, int(self.backwards), pointers, len(arguments), message, ctypes.c_size_t(256))
        if failed:
            raise KernelError(message.value.decode())


def scalar(value: Any) -> ctypes._SimpleCData[Any]:
    """A scalar as CuPy passes it: NumPy scalars by their dtype, Python's int as 64-bit and float as double."""
    if isinstance(value, np.generic):
        return np.ctypeslib.as_ctypes_type(value.dtype)(value.item())  # type: ignore[no-any-return]
    if isinstance(value, int):
        return ctypes.c_longlong(value)
    if isinstance(value, float):
        return ctypes.c_double(value)
    raise TypeError(f"a kernel takes arrays and numbers, got {type(value).__name__}")


def _three(sides: Sequence[int]) -> tuple[int, int, int]:
    x, y, z = (*sides, 1, 1)[:3]
    return x, y, z


def _compiled(source: str, definitions: Sequence[str]) -> ctypes.CDLL:
    exports = "\n".join(f"CUDA_CPU_EXPORT({name})" for name in _KERNEL.findall(source))
    text = f'#include "{HEADER}"\n#line 1 "kernel.cu"\n{source}\n{exports}\n'
    key = hashlib.sha256("\0".join([text, HEADER.read_text(), *definitions]).encode()).hexdigest()
    with _ONE_LAUNCH_AT_A_TIME:
        if key not in _LIBRARIES:
            target = _OBJECTS / f"{key}.so"
            command = ["g++", *_FLAGS, *definitions, "-x", "c++", "-", "-o", str(target)]
            done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"g++ refuses the kernel:\n{done.stderr}")
            _LIBRARIES[key] = ctypes.CDLL(str(target))
        return _LIBRARIES[key]
