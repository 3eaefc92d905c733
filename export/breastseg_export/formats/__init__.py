"""What an export writes: one file per format, and the list of those that an export is made of."""

from __future__ import annotations

from breastseg_deploy.bundle import BF16, INT8
from breastseg_deploy.machine import Machine
from breastseg_export.formats.bf16 import Bf16
from breastseg_export.formats.engines import Engine, engine_requests
from breastseg_export.formats.format import Format
from breastseg_export.formats.fp16 import Fp16
from breastseg_export.formats.gate import GateHalves
from breastseg_export.formats.gate_precisions import GateInPrecision
from breastseg_export.formats.int8 import Int8, calibration_frames
from breastseg_export.formats.portable import Portable
from breastseg_export.formats.slide import Slide
from breastseg_export.settings import ExportSettings
from breastseg_train.network.checkpoint import Checkpoint


def formats_for(settings: ExportSettings, checkpoint: Checkpoint, machine: Machine) -> list[Format]:
    """The formats that an export is asked for, in the order of the manifest.

    Raises:
        ArgumentError: formats that cannot be asked for together.
        MachineError: a library that one of them needs is not installed, or a GPU that is not there.
    """
    formats: list[Format] = [Portable()]
    if settings.precision == "fp16":
        formats.append(Fp16())
    if settings.precision != "fp32":
        formats.append(Bf16())
    calibration = calibration_frames(settings)
    if calibration is not None:
        formats.append(Int8(calibration))
    if checkpoint.gate is not None:
        formats.append(GateHalves(checkpoint.gate, (settings.size_px, settings.size_px)))
        formats += [GateInPrecision(checkpoint.gate, BF16)] if settings.precision != "fp32" else []
        formats += [GateInPrecision(checkpoint.gate, INT8)] if calibration is not None else []
    if settings.slide:
        formats.append(Slide())
    requests = engine_requests(settings.targets, settings.compute_capabilities, settings.precision, machine)
    return [*formats, *(Engine(request) for request in requests)]
