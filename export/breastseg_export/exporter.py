"""The export: checkpoint in, verified bundle out, or no bundle at all."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn, get_args

from breastseg_deploy.bundle import MANIFEST, REPORT, SBOM, golden_bytes, is_manifest
from breastseg_deploy.contract import check_model_size
from breastseg_deploy.errors import ArgumentError, ParityError
from breastseg_deploy.machine import Machine
from breastseg_deploy.manifest import Manifest, Precision
from breastseg_deploy.progress import Progress
from breastseg_deploy.storage import (
    check_output_folder,
    check_replaceable,
    folder_written_whole,
    make_folder,
    write_whole,
)
from breastseg_export import runners
from breastseg_export.cells import LabelledFrames, choose_cells
from breastseg_export.description import Description, frame_contract
from breastseg_export.formats import formats_for
from breastseg_export.formats.format import ArtefactNotes, Candidate, PassedArtefact, Work
from breastseg_export.graph import export_network
from breastseg_export.named_frames import NamedFrames
from breastseg_export.parity import ParityRun, check, compare, failures
from breastseg_export.report import write_pictures
from breastseg_export.settings import ExportSettings
from breastseg_train.network.checkpoint import Checkpoint, load_checkpoint


def export_bundle(
    settings: ExportSettings, say: Callable[[str], None] = lambda _: None, machine: Machine | None = None
) -> Manifest:
    """Export a checkpoint, hold every artefact to the float32 reference, and write the bundle whole or not at all.

    Args:
        settings: what to export and where to.
        say: told about each step, in a sentence.
        machine: on which it runs; None for this one.

    Raises:
        BackendError: TensorRT refuses the float16 network or cannot build an engine of it.
        CheckpointError: the checkpoint cannot be used.
        DataError: frames for `cells` that cannot be used.
        ArgumentError: `min_dice` lies outside 0 to 1; engines that cannot be asked for; a gate for another frame size;
            a network that is not the paper's; INT8 without frames that calibrate it or show what it costs.
        FrameError: a size that is no multiple of 32, or frames that break the contract.
        MachineError: a target's library is not installed, or it needs a GPU and there is none.
        OutputError: the bundle cannot be written.
        ParityError: an artefact misses a limit; the worst frames lie beside `output`, in a folder named in the message.
    """
    # The cheap checks come first: a wrong word on the command line ends in seconds.
    _check(settings)
    checkpoint = load_checkpoint(settings.checkpoint)
    _check_architecture(settings.checkpoint, checkpoint)
    machine = machine or Machine()
    formats = formats_for(settings, checkpoint, machine)
    frame = frame_contract(settings, checkpoint)
    frames = NamedFrames(settings.frames, frame.size_px, settings.bit_depth)
    frames.check()
    labelled = LabelledFrames(settings.cells, frame.size_px) if settings.cells else None
    # Tracing and parity take long: a format that cannot be made ends the export before them.
    for one in formats:
        one.check(frames)
    runners.check_edge_channel(frames[0].frame, checkpoint.model.architecture.gabor)
    # The folder is made before the long work: a place that cannot be written is found now and not at the end.
    with folder_written_whole(settings.output, force=settings.force) as folder:
        say(f"tracing {checkpoint.model.architecture.encoder} at {settings.size_px} x {settings.size_px}")
        with Progress("tracing"):
            network = export_network(checkpoint.model, frame.size_px)
        work = Work(settings, checkpoint, frames, network, machine, say)
        candidates, run = _measured(work, [one.make(work) for one in formats if not one.after_parity])
        description = Description(work, run, frame, [PassedArtefact(one, one.notes(run)) for one in candidates])
        # Engines are built of the float16 network that has passed, never of an attempt that parity refused.
        work = replace(work, passed={one.candidate.role: one for one in description.artefacts})
        for one in formats:
            if one.after_parity:
                late = one.make(work)
                description.artefacts.append(PassedArtefact(late, late.notes(run)))
        if labelled is not None:
            say(f"choosing how masks become cells on {labelled.description}")
            predict = runners.reference(checkpoint.model)
            choice = choose_cells(labelled, predict, checkpoint.threshold, frame.pixel_size_um)
            description = replace(description, cells=choice)
        say(f"writing {settings.output}")
        for name, content in description.files():
            make_folder((folder / name).parent)
            write_whole(folder / name, content)
        for golden in description.goldens():
            make_folder((folder / golden.name).parent)
            write_whole(folder / golden.name, golden_bytes(golden))
        write_whole(folder / REPORT, description.report().encode())
        write_whole(folder / SBOM, description.sbom(folder))
        # The manifest comes last: it states size and hash of all that was written before it.
        manifest = description.manifest(folder)
        write_whole(folder / MANIFEST, manifest.model_dump_json(indent=2).encode())
    return manifest


def _check(settings: ExportSettings) -> None:
    check_output_folder(settings.output, force=settings.force)
    if settings.force:
        check_replaceable(settings.output, _foreign)
    if settings.min_dice is not None and not 0 <= settings.min_dice <= 1:
        raise ArgumentError(f"--min-dice is a Dice coefficient, 0 to 1, got {settings.min_dice}")
    check_model_size((settings.size_px, settings.size_px))
    if settings.precision not in get_args(Precision):
        raise ArgumentError(f"precision is one of {', '.join(get_args(Precision))}, got {settings.precision!r}")


def _foreign(folder: Path) -> str | None:
    """See `check_replaceable`."""
    return None if is_manifest(folder / MANIFEST) else f"files but no {MANIFEST} of a bundle"


def _check_architecture(name: str, checkpoint: Checkpoint) -> None:
    architecture = checkpoint.model.architecture
    if not architecture.is_the_papers:
        raise ArgumentError(
            f"{name} holds the network {architecture.network} behind the front {architecture.front}, and a bundle is "
            "made of the paper's alone (unet++ behind its projection): the others are there to be compared with; "
            "export a checkpoint of the preset paper or general"
        )


def _measured(work: Work, candidates: list[Candidate]) -> tuple[list[Candidate], ParityRun]:
    """Parity of all artefacts; where only such miss it that have another attempt, these are made and all run again.

    Raises:
        ParityError: a limit is missed.
    """
    while True:
        compared = [one for candidate in candidates for one in candidate.compared]
        work.say(f"measuring parity on {work.frames.description}")
        with Progress("parity", len(work.frames), "frames") as progress:
            reference = runners.reference(work.checkpoint.model)
            run = compare(reference, compared, work.frames, work.checkpoint.threshold, progress.update)
        # All run again, not the new ones alone, so that one ParityRun speaks of one set of artefacts.
        larger = _larger(candidates, run)
        if larger is None:
            return candidates, run if not failures(run.summaries) else _reject(work, candidates, run)
        candidates = larger


def _larger(candidates: Sequence[Candidate], run: ParityRun) -> list[Candidate] | None:
    """The artefacts with another attempt in the place of each that missed a limit; None where that is no way out."""
    failing = {title for title, parity in run.summaries.items() if failures({title: parity})}
    if not failing:
        return None
    again: list[Candidate] = []
    for candidate in candidates:
        one = candidate.larger() if failing & {compared.title for compared in candidate.compared} else candidate
        if one is None:  # the others' next attempts cannot help an artefact that has none
            return None
        again.append(one)
    return again


def _reject(work: Work, candidates: Sequence[Candidate], run: ParityRun) -> NoReturn:
    """Keep the worst frames and the report in a new folder beside the output, and end the export."""
    place = work.settings.output.absolute()
    numbers = itertools.chain([""], (f"-{n}" for n in itertools.count(2)))
    rejected = next(p for p in (place.with_name(f"{place.name}.rejected{n}") for n in numbers) if not p.exists())
    frame = frame_contract(work.settings, work.checkpoint)
    description = Description(work, run, frame, [PassedArtefact(one, _notes(one, run)) for one in candidates])
    with folder_written_whole(rejected, force=False) as folder:
        write_pictures(run, folder, work.checkpoint.threshold)
        write_whole(folder / REPORT, description.report().encode())
    try:
        check(run.summaries)
    except ParityError as err:
        advice = "".join(f"; {one}" for one in _advice(candidates, run))
        raise ParityError(f"{err}; no bundle was written, the worst frames are in {rejected}{advice}") from err
    raise AssertionError("an export is rejected for a limit alone")


def _advice(candidates: Sequence[Candidate], run: ParityRun) -> list[str]:
    """What to do, where each artefact that misses a limit says so."""
    missing = [one for one in candidates if failures({each.title: run.summaries[each.title] for each in one.compared})]
    return [one.advice for one in missing] if all(one.advice for one in missing) else []


def _notes(candidate: Candidate, run: ParityRun) -> ArtefactNotes:
    """What a format says of an artefact that is rejected; nothing where it finds yet another reason to."""
    try:
        return candidate.notes(run)
    except ParityError:
        return ArtefactNotes()
