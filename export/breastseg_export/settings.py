"""What an export is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from breastseg_deploy.manifest import Precision


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
        compute_capabilities: GPUs to build engines for; without any, this machine's own.
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
