"""The export: checkpoint in, verified bundle out, or no bundle at all."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import onnx
from pydantic import ValidationError

from breastseg_deploy.bundle import GOLDENS, INT8_NETWORK, INT8_WEIGHTS, MANIFEST, MODEL, REPORT, golden_bytes
from breastseg_deploy.contract import check_model_size
from breastseg_deploy.errors import ArgumentError, CheckpointError, ParityError
from breastseg_deploy.machine import Machine
from breastseg_deploy.manifest import FrameContract, Manifest, Precision
from breastseg_deploy.progress import Progress
from breastseg_deploy.storage import (
    check_output_folder,
    check_replaceable,
    folder_written_whole,
    make_folder,
    write_whole,
)
from breastseg_export import runners
from breastseg_export.description import Exported
from breastseg_export.formats.engines import engine_requests, write_engines
from breastseg_export.formats.gate import check_gate_size, gated_graphs
from breastseg_export.formats.int8 import check_int8_frames, check_nncf, quantised_network
from breastseg_export.graph import export_network, portable_model
from breastseg_export.measuring import gate_parity, half_parity, parity
from breastseg_export.parity import check, failures
from breastseg_export.report import write_pictures
from breastseg_export.samples import Samples
from breastseg_export.settings import ExportSettings
from breastseg_train.network.checkpoint import Checkpoint, load_checkpoint


def export_bundle(settings: ExportSettings, say: Callable[[str], None] = lambda _: None) -> Manifest:
    """Export a checkpoint, hold every artefact to the float32 reference, and write the bundle whole or not at all.

    Args:
        settings: what to export and where to.
        say: told about each step, in a sentence.

    Raises:
        BackendError: TensorRT refuses the float16 network or cannot build an engine of it.
        CheckpointError: the checkpoint cannot be used.
        ArgumentError: `min_dice` lies outside 0 to 1; engines that cannot be asked for; a gate for another frame size;
            a network that is not the paper's; INT8 without frames that calibrate it or show what it costs.
        FrameError: a size that is no multiple of 32, or frames that break the contract.
        MachineError: a target's library is not installed, or it needs a GPU and there is none.
        OutputError: the bundle cannot be written.
        ParityError: an artefact misses a limit; the worst frames lie beside `output`, in a folder named in the message.
    """
    check_output_folder(settings.output, force=settings.force)
    if settings.force:
        check_replaceable(settings.output, MANIFEST)
    if settings.min_dice is not None and not 0 <= settings.min_dice <= 1:
        raise ArgumentError(f"--min-dice is a Dice coefficient, 0 to 1, got {settings.min_dice}")
    size = (settings.size_px, settings.size_px)
    check_model_size(size)
    if settings.precision not in get_args(Precision):
        raise ArgumentError(f"precision is one of {', '.join(get_args(Precision))}, got {settings.precision!r}")
    calibration = _calibration(settings)
    requests = engine_requests(settings.targets, settings.compute_capabilities, settings.precision, Machine())
    checkpoint = load_checkpoint(settings.checkpoint)
    _check_architecture(settings.checkpoint, checkpoint)
    if checkpoint.gate is not None:
        check_gate_size(checkpoint.gate, size)
    contract = _frame_contract(settings, checkpoint)
    samples = Samples(settings.frames, size, settings.bit_depth)
    samples.check()
    if calibration is not None:
        with Progress("comparing the frames of --frames and --calibrate"):
            check_int8_frames(calibration, samples)
    runners.check_edge_channel(samples[0].frame, checkpoint.model.architecture.gabor)
    # The folder is made before the long work: a place that cannot be written is found now and not at the end.
    with folder_written_whole(settings.output, force=settings.force) as folder:
        say(f"tracing {checkpoint.model.architecture.encoder} at {size[0]} x {size[1]}")
        with Progress("tracing"):
            graphs, network = _graphs(checkpoint, size)
        quantised = None
        if calibration is not None:
            say(f"quantising to INT8, ranges measured on {len(calibration)} frames")
            with Progress("quantising"):
                quantised = quantised_network(network, checkpoint.model.architecture.gabor, size, calibration)
        if settings.precision != "fp16":
            say(f"measuring parity on {samples.description}")
            run, half = parity(checkpoint, graphs, samples, settings.min_dice, quantised), None
        else:
            run, half = half_parity(checkpoint, graphs, network, samples, settings.min_dice, say)
        exported = Exported(
            settings, checkpoint, samples, run, half, int8=quantised.details(run) if quantised else None
        )
        if failures(run.summaries):
            _reject(exported)
        exported = replace(exported, gate=gate_parity(checkpoint, graphs, samples, run))
        say(f"writing {settings.output}")
        for name, graph in graphs.items():
            make_folder((folder / name).parent)
            write_whole(folder / name, graph.SerializeToString())
        if quantised is not None:
            make_folder((folder / INT8_NETWORK).parent)
            write_whole(folder / INT8_NETWORK, quantised.xml)
            write_whole(folder / INT8_WEIGHTS, quantised.weights)
        make_folder(folder / GOLDENS)
        for golden in exported.goldens():
            write_whole(folder / golden.name, golden_bytes(golden))
        write_whole(folder / REPORT, exported.report().encode())
        engines = write_engines(folder, half.fp32_islands if half else (), requests, say)
        manifest = exported.manifest(contract, engines, folder)
        write_whole(folder / MANIFEST, manifest.model_dump_json(indent=2).encode())
    return manifest


def _frame_contract(settings: ExportSettings, checkpoint: Checkpoint) -> FrameContract:
    spacing_um = checkpoint.details.get("pixel_size_um")
    try:
        return FrameContract(height_px=settings.size_px, width_px=settings.size_px, pixel_size_um=spacing_um)
    except ValidationError as err:
        raise CheckpointError(
            f"{settings.checkpoint} states a pixel_size_um of {spacing_um!r}, expected micrometres over 0, or none; "
            "save it again"
        ) from err


def _calibration(settings: ExportSettings) -> Samples | None:
    """The frames to calibrate INT8 on; None where it was not asked for."""
    if (settings.precision == "int8") != (settings.calibrate is not None):
        raise ArgumentError(
            "--precision int8 and --calibrate DIR belong together: ranges are measured on frames of your own; "
            f"got --precision {settings.precision} and {'no ' if settings.calibrate is None else ''}--calibrate"
        )
    if settings.calibrate is None:
        return None
    check_nncf()
    return Samples(settings.calibrate, (settings.size_px, settings.size_px), settings.bit_depth)


def _check_architecture(name: str, checkpoint: Checkpoint) -> None:
    architecture = checkpoint.model.architecture
    if not architecture.is_the_papers:
        raise ArgumentError(
            f"{name} holds the network {architecture.network} behind the front {architecture.front}, and a bundle is "
            "made of the paper's alone (unet++ behind its projection): the others are there to be compared with; "
            "export a checkpoint of the preset paper or demo"
        )


def _graphs(checkpoint: Checkpoint, size_px: tuple[int, int]) -> tuple[dict[str, onnx.ModelProto], onnx.ModelProto]:
    """The float32 graphs of the bundle by file name, and the network alone."""
    network = export_network(checkpoint.model, size_px)
    graphs = {MODEL: portable_model(network, checkpoint.model.architecture.gabor, size_px)}
    if checkpoint.gate is not None:
        graphs |= gated_graphs(checkpoint.model, checkpoint.gate, size_px)
    return graphs, network


def _reject(exported: Exported) -> None:
    """Keep the worst frames and the report in a new folder beside the output, and end the export."""
    place = exported.settings.output.absolute()
    numbers = itertools.chain([""], (f"-{n}" for n in itertools.count(2)))
    rejected = next(p for p in (place.with_name(f"{place.name}.rejected{n}") for n in numbers) if not p.exists())
    with folder_written_whole(rejected, force=False) as folder:
        write_pictures(exported.run, folder, exported.checkpoint.threshold)
        write_whole(folder / REPORT, exported.report().encode())
    try:
        check(exported.run.summaries)
    except ParityError as err:
        raise ParityError(f"{err}; no bundle was written, the worst frames are in {rejected}") from err
