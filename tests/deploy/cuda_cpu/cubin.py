"""A `.cu` file compiled by NVRTC, which needs no GPU, and what its kernels take of a multiprocessor."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_FRAME_BYTES, _REGISTERS = 0x11, 0x2F
"""EIATTR_FRAME_SIZE and EIATTR_REGCOUNT of a cubin's .nv.info section."""
_SIZED_VALUE = 4


@dataclass(frozen=True)
class Resources:
    """Of the one kernel in a cubin.

    Attributes:
        registers: per thread.
        frame_bytes: local memory per thread; over 0 where registers were spilled.
    """

    registers: int
    frame_bytes: int


def compiled_for(nvrtc: Any, source: str, architecture: str, options: Sequence[str]) -> Resources:
    """Compile and read the registers back.

    Args:
        nvrtc: `cupy.cuda.nvrtc`.
        source: CUDA C++ with one kernel.
        architecture: such as "sm_90".
        options: compiler options.

    Raises:
        RuntimeError: NVRTC refuses the source; the message holds what it said.
    """
    program = nvrtc.createProgram(source, "kernel.cu", (), ())
    try:
        nvrtc.compileProgram(program, (*options, f"-arch={architecture}"))
        cubin = nvrtc.getCUBIN(program)
    except nvrtc.NVRTCError as err:
        raise RuntimeError(nvrtc.getProgramLog(program)) from err
    finally:
        nvrtc.destroyProgram(program)
    found = _attributes(cubin)
    return Resources(max(found[_REGISTERS]), max(found[_FRAME_BYTES]))


def _attributes(cubin: bytes) -> dict[int, list[int]]:
    """Values of the (symbol, value) attributes in .nv.info, by attribute; an ELF file, 64 bits, little-endian."""
    (table,) = struct.unpack_from("<Q", cubin, 40)
    size, count, names = struct.unpack_from("<HHH", cubin, 58)
    sections = [struct.unpack_from("<IIQQQQ", cubin, table + i * size) for i in range(count)]
    found: dict[int, list[int]] = {}
    for name, _, _, _, offset, length in sections:
        start = sections[names][4] + name
        if cubin[start : start + 9] != b".nv.info\0":
            continue
        at = offset
        while at < offset + length:
            kind, attribute, room = struct.unpack_from("<BBH", cubin, at)
            at += 4
            if kind == _SIZED_VALUE:
                found.setdefault(attribute, []).append(struct.unpack_from("<I", cubin, at + room - 4)[0])
                at += room
    return found
