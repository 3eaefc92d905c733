"""The two TensorRTs that one code path serves: TensorRT (10.16 and 11.x) and TensorRT-RTX (1.7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from breastseg_deploy.engines.api import TensorRT
from breastseg_deploy.errors import ArgumentError
from breastseg_deploy.extras import require

FlavourName = Literal["tensorrt", "tensorrt-rtx"]


@dataclass(frozen=True)
class Flavour:
    """One TensorRT.

    Attributes:
        name: as targets, backends and file names call it.
        module: the import name.
        extra: the extra of this distribution that installs it.
        title: for messages.
        builds_for_other_gpus: whether it builds engines for a GPU that is not in this machine.
        compiles_kernels: whether it compiles kernels as it serves: they are worth keeping, and it alone knows when a
            CUDA graph can be captured.
    """

    name: FlavourName
    module: str
    extra: str
    title: str
    builds_for_other_gpus: bool
    compiles_kernels: bool


FLAVOURS: Mapping[FlavourName, Flavour] = {
    "tensorrt": Flavour(
        "tensorrt", "tensorrt", "tensorrt", "TensorRT", builds_for_other_gpus=False, compiles_kernels=False
    ),
    "tensorrt-rtx": Flavour(
        "tensorrt-rtx",
        "tensorrt_rtx",
        "tensorrt-rtx",
        "TensorRT-RTX",
        builds_for_other_gpus=True,
        compiles_kernels=True,
    ),
}
"""By name, the preferred one first."""


def flavour_named(name: str) -> Flavour:
    """The flavour of that name.

    Raises:
        ArgumentError: there is none.
    """
    for flavour in FLAVOURS.values():
        if flavour.name == name:
            return flavour
    raise ArgumentError(f"no TensorRT flavour {name!r}; choose one of {', '.join(FLAVOURS)}")


def load(flavour: Flavour) -> TensorRT:
    """Import the flavour's Python module, typed by the part of it that this project uses (`engines.api`).

    Raises:
        MachineError: it is not installed; the message holds the command that installs it.
    """
    return cast(TensorRT, require(flavour.module, flavour.extra))


def version(trt: TensorRT) -> str:
    """The version of a loaded flavour, e.g. "10.16.1.11": engines run with exactly the version that built them."""
    return trt.__version__
