"""A driver of a few lines of C in the place of NVIDIA's."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from pathlib import Path

DRIVER = """
#include <stddef.h>
#include <string.h>
int cuInit(unsigned flags) { return STATUS; }
int cuDriverGetVersion(int *version) { *version = 13020; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal + 5; return 0; }
int cuDeviceGetName(char *name, int length, int device) {
    strncpy(name, "NVIDIA Test", length); return device == 5 ? 0 : 101;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)24 << 30; return device == 5 ? 0 : 101; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 8 : attribute == 76 ? 6 : -1; return device == 5 ? 0 : 101;
}
"""
MANAGEMENT = """
#include <string.h>
int nvmlInit_v2(void) { return STATUS; }
int nvmlSystemGetDriverVersion(char *version, unsigned length) { strncpy(version, "580.82.07", length); return 0; }
"""

Load = Callable[[str], ctypes.CDLL]


def drivers(folder: Path, **statuses: int) -> Load:
    """Opens libraries made here, and no others; `statuses` say what their first call answers."""
    sources = {"libcuda.so.1": DRIVER, "libnvidia-ml.so.1": MANAGEMENT}
    for name, source in sources.items():
        status = statuses.get(name.partition(".")[0].replace("-", "_"), 0)
        command = ["cc", "-shared", "-fPIC", f"-DSTATUS={status}", "-x", "c", "-", "-o", str(folder / name)]
        subprocess.run(command, input=source, text=True, check=True)

    def load(name: str) -> ctypes.CDLL:
        return ctypes.CDLL(str(folder / name))

    return load
