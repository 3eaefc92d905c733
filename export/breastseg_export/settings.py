"""What an export is asked for."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from breastseg_deploy.errors import ArgumentError
from breastseg_deploy.manifest import Precision

SOURCE_DATE_EPOCH = "SOURCE_DATE_EPOCH"
"""Seconds since 1970 that stand for now: reproducible-builds.org/specs/source-date-epoch."""


def build_time() -> str:
    """The moment that SOURCE_DATE_EPOCH names, else now: UTC in ISO 8601, to the second.

    Raises:
        ArgumentError: the variable holds no such number.
    """
    given = os.environ.get(SOURCE_DATE_EPOCH)
    try:
        moment = datetime.now(UTC) if given is None else datetime.fromtimestamp(int(given), UTC)
    except (ValueError, OverflowError, OSError) as err:
        raise ArgumentError(
            f"{SOURCE_DATE_EPOCH} must be a number of seconds since 1970, got {given!r}; mend it or unset it"
        ) from err
    return moment.isoformat(timespec="seconds")


@dataclass(frozen=True)
class ExportSettings:
    """What an export is asked for.

    Attributes:
        checkpoint: path, or the word "demo".
        output: the bundle's folder.
        precision: "fp16" adds the strongly typed float16 network to the portable float32 model, "int8" a network that
            is partly in 8-bit integers.
        size_px: side of the square frames; a multiple of 32.
        frames: folder of frames to measure parity on; None for phantoms.
        bit_depth: of uint16 frames.
        min_dice: a Dice that every frame must reach, where it is stricter than the precision's own limit.
        force: replace what stands at `output`.
        targets: TensorRT flavours to build engines with.
        calibrate: folder of frames that the ranges of "int8" are measured on; none of them may be among `frames`.
        cells: folders of frames with numbered cells that choose how masks become cells; without any, the manifest
            says that the documented defaults serve.
        compute_capabilities: GPUs to build engines for; without any, this machine's own.
        slide: whether the bundle gets the slide artefact.
        built_at: what the manifest and the list of components state, see `build_time`; nothing else of a bundle but
            engines depends on the time.
    """

    checkpoint: str
    output: Path
    precision: Precision = "fp16"
    size_px: int = 512
    frames: Path | None = None
    bit_depth: int | None = None
    min_dice: float | None = None
    force: bool = False
    targets: tuple[str, ...] = ()
    compute_capabilities: tuple[str, ...] = ()
    calibrate: Path | None = None
    cells: tuple[Path, ...] = ()
    slide: bool = True
    built_at: str = field(default_factory=build_time)
