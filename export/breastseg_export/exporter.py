"""The export: checkpoint in, verified bundle out, or no bundle at all."""

from __future__ import annotations

import itertools
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
from pydantic import ValidationError
from tqdm import tqdm

from breastseg_deploy.bundle import GOLDENS, MANIFEST, MODEL, NETWORK_FP16, REPORT, Golden, file_entry, golden_bytes
from breastseg_deploy.contract import IMAGENET_MEAN, IMAGENET_STD, check_model_size
from breastseg_deploy.errors import CheckpointError, ContractError, ParityError
from breastseg_deploy.gabor import bank_sha256
from breastseg_deploy.manifest import (
    EngineEntry,
    FrameContract,
    GaborBank,
    HalfPrecision,
    Manifest,
    Normalisation,
    Precision,
)
from breastseg_deploy.storage import (
    check_output_folder,
    check_replaceable,
    folder_written_whole,
    make_folder,
    write_whole,
)
from breastseg_export import artefacts
from breastseg_export.engines import engine_requests, write_engines
from breastseg_export.graph import OPSET, export_network, portable_model
from breastseg_export.half import half_network
from breastseg_export.islands import IslandSearch, described, watched_frames
from breastseg_export.layers import island_modules
from breastseg_export.parity import (
    FP16_LIMITS,
    FP32_LIMITS,
    HALF_LIMITS,
    Artefact,
    ParityRun,
    check,
    compare,
    failures,
    stricter,
)
from breastseg_export.ranges import Watch, necessary_islands
from breastseg_export.report import report_html, write_pictures
from breastseg_export.samples import Samples
from breastseg_train.checkpoint import Checkpoint, load_checkpoint

_PACKAGES = ("breastseg-deploy", "torch", "segmentation-models-pytorch", "timm", "onnx", "onnxruntime", "numpy")
_ATTEMPTS = 3
"""Sets of float32 islands that are held to all frames before an export gives up."""
INTENDED_USE = "Research and engineering. Not a medical device; no diagnosis may rest on its masks."


@dataclass(frozen=True)
class ExportSettings:
    """What an export is asked for.

    Attributes:
        checkpoint: path, or the word "demo".
        output: the bundle's folder.
        precision: "fp16" adds the strongly typed float16 network to the portable float32 model.
        size_px: side of the square frames; a multiple of 32.
        frames: folder of frames to measure parity on; None for phantoms.
        bit_depth: of uint16 frames.
        min_dice: a Dice that every frame must reach, where it is stricter than the precision's own limit.
        force: replace what stands at `output`.
        targets: TensorRT flavours to build engines with.
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


def export_bundle(settings: ExportSettings, say: Callable[[str], None] = lambda _: None) -> Manifest:
    """Export a checkpoint, hold every artefact to the float32 reference, and write the bundle whole or not at all.

    Args:
        settings: what to export and where to.
        say: told about each step, in a sentence.

    Raises:
        BackendError: TensorRT refuses the float16 network or cannot build an engine of it.
        CheckpointError: the checkpoint cannot be used.
        ContractError: `min_dice` lies outside 0 to 1; engines that cannot be asked for.
        FrameError: a size that is no multiple of 32, or frames that break the contract.
        MachineError: a target's library is not installed, or it needs a GPU and there is none.
        OutputError: the bundle cannot be written.
        ParityError: an artefact misses a limit; the worst frames lie beside `output`, in a folder named in the message.
    """
    check_output_folder(settings.output, force=settings.force)
    if settings.force:
        check_replaceable(settings.output, MANIFEST)
    if settings.min_dice is not None and not 0 <= settings.min_dice <= 1:
        raise ContractError(f"--min-dice is a Dice coefficient, 0 to 1, got {settings.min_dice}")
    size = (settings.size_px, settings.size_px)
    check_model_size(size)
    requests = engine_requests(settings.targets, settings.compute_capabilities, settings.precision)
    checkpoint = load_checkpoint(settings.checkpoint)
    contract = _frame_contract(settings, checkpoint)
    samples = Samples(settings.frames, size, settings.bit_depth)
    samples.check()
    artefacts.check_edge_channel(samples[0].frame, checkpoint.model.architecture.gabor)
    # The folder is made before the long work: a place that cannot be written is found now and not at the end.
    with folder_written_whole(settings.output, force=settings.force) as folder:
        say(f"tracing {checkpoint.model.architecture.encoder} at {size[0]} x {size[1]}")
        graphs, network = _graphs(checkpoint, size)
        if settings.precision == "fp32":
            say(f"measuring parity on {samples.description}")
            run, half = _parity(checkpoint, graphs, (), samples, settings.min_dice), None
        else:
            run, half = _half_parity(checkpoint, graphs, network, samples, settings.min_dice, say)
        if failures(run.summaries):
            _reject(settings, checkpoint, run, half, samples)
        say(f"writing {settings.output}")
        for name, graph in graphs.items():
            write_whole(folder / name, graph.SerializeToString())
        make_folder(folder / GOLDENS)
        for golden in _goldens(run):
            write_whole(folder / golden.name, golden_bytes(golden))
        write_whole(folder / REPORT, _report(settings, checkpoint, run, half, samples).encode())
        engines = write_engines(folder, half.fp32_islands if half else (), requests, say)
        manifest = _manifest(settings, checkpoint, contract, run, half, samples, engines, folder)
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


def _graphs(checkpoint: Checkpoint, size_px: tuple[int, int]) -> tuple[dict[str, onnx.ModelProto], onnx.ModelProto]:
    """The float32 graphs of the bundle by file name, and the network alone."""
    network = export_network(checkpoint.model, size_px)
    return {MODEL: portable_model(network, checkpoint.model.architecture.gabor, size_px)}, network


def _half_parity(
    checkpoint: Checkpoint,
    graphs: dict[str, onnx.ModelProto],
    network: onnx.ModelProto,
    samples: Samples,
    min_dice: float | None,
    say: Callable[[str], None],
) -> tuple[ParityRun, HalfPrecision]:
    """Parity with a float16 network, which is put into `graphs`: the one with the smallest set of float32 islands.

    Where that set fails on all frames, larger ones are tried.
    """
    say(f"measuring the range of each layer on {samples.description}")
    watch = Watch(network)
    with _progress(samples, "ranges") as bar:
        frames = watched_frames(watch, samples, checkpoint.model.architecture.gabor, checkpoint.threshold, bar.update)
    necessary = necessary_islands(network, watch.ranges)
    say(f"{len(necessary)} nodes must be float32; looking for the smallest set of further ones")
    limits = stricter(FP16_LIMITS, min_dice)
    search = IslandSearch(network, necessary, frames, checkpoint.threshold, limits)
    groups = search.smallest()
    for attempts_left in reversed(range(_ATTEMPTS)):
        islands = search.islands(groups)
        graphs[NETWORK_FP16] = half_network(network, islands)
        more = ", ".join(search.in_order(groups)) or "none"
        say(f"measuring parity on {samples.description}; further layers in float32: {more}")
        modules = island_modules(checkpoint.model, network, islands)
        run = _parity(checkpoint, graphs, modules, samples, min_dice)
        larger = search.larger(groups) if attempts_left and _only_half_fails(run) else None
        if larger is None:
            break
        groups = larger
    return run, described(search, groups, watch, necessary)


def _only_half_fails(run: ParityRun) -> bool:
    failing = [title for title, parity in run.summaries.items() if failures({title: parity})]
    return bool(failing) and all(run.summaries[title].artefact == NETWORK_FP16 for title in failing)


def _parity(
    checkpoint: Checkpoint,
    graphs: dict[str, onnx.ModelProto],
    float32_modules: tuple[str, ...],
    samples: Samples,
    min_dice: float | None,
) -> ParityRun:
    model, gabor = checkpoint.model, checkpoint.model.architecture.gabor
    compared = [
        Artefact(
            MODEL,
            "ONNX Runtime",
            artefacts.portable_in_onnxruntime(graphs[MODEL]),
            stricter(FP32_LIMITS, min_dice),
        )
    ]
    if NETWORK_FP16 in graphs:
        compared += [
            Artefact(
                NETWORK_FP16,
                "ONNX Runtime",
                artefacts.network_in_onnxruntime(graphs[NETWORK_FP16], gabor),
                stricter(FP16_LIMITS, min_dice),
            ),
            Artefact(
                NETWORK_FP16,
                "torch .half()",
                artefacts.half_in_torch(model, float32_modules),
                stricter(HALF_LIMITS, min_dice),
            ),
        ]
    with _progress(samples, "parity") as bar:
        return compare(artefacts.reference(model), compared, samples, checkpoint.threshold, bar.update)


def _progress(samples: Samples, what: str) -> Any:
    return tqdm(total=len(samples), desc=what, unit="frame", disable=not sys.stderr.isatty())


def _goldens(run: ParityRun) -> list[Golden]:
    return [
        Golden(f"{GOLDENS}/golden-{number}.npz", answer.frame, answer.probability, answer.mask)
        for number, answer in enumerate(run.goldens, start=1)
    ]


def _reject(
    settings: ExportSettings, checkpoint: Checkpoint, run: ParityRun, half: HalfPrecision | None, samples: Samples
) -> None:
    """Keep the worst frames and the report in a new folder beside the output, and end the export."""
    place = settings.output.absolute()
    numbers = itertools.chain([""], (f"-{n}" for n in itertools.count(2)))
    rejected = next(p for p in (place.with_name(f"{place.name}.rejected{n}") for n in numbers) if not p.exists())
    with folder_written_whole(rejected, force=False) as folder:
        write_pictures(run, folder, checkpoint.threshold)
        write_whole(folder / REPORT, _report(settings, checkpoint, run, half, samples).encode())
    try:
        check(run.summaries)
    except ParityError as err:
        raise ParityError(f"{err}; no bundle was written, the worst frames are in {rejected}") from err


def _report(
    settings: ExportSettings, checkpoint: Checkpoint, run: ParityRun, half: HalfPrecision | None, samples: Samples
) -> str:
    architecture = checkpoint.model.architecture
    rows = [
        ("checkpoint", Path(settings.checkpoint).name),
        ("encoder", architecture.encoder),
        ("decoder channels", ", ".join(map(str, architecture.decoder_channels))),
        ("frame", f"{settings.size_px} x {settings.size_px}, uint8 RGB"),
        ("precision", settings.precision),
        ("threshold", str(checkpoint.threshold)),
        *_versions().items(),
    ]
    return report_html(architecture.encoder, run, samples.description, rows, checkpoint.threshold, half)


def _manifest(
    settings: ExportSettings,
    checkpoint: Checkpoint,
    contract: FrameContract,
    run: ParityRun,
    half: HalfPrecision | None,
    samples: Samples,
    engines: tuple[EngineEntry, ...],
    folder: Path,
) -> Manifest:
    architecture, details = checkpoint.model.architecture, checkpoint.details
    written = sorted(path for path in folder.rglob("*") if path.is_file())
    return Manifest(
        name=str(details.get("name", Path(settings.checkpoint).stem)),
        encoder=architecture.encoder,
        decoder_channels=architecture.decoder_channels,
        frame=contract,
        gabor=GaborBank(**asdict(architecture.gabor), sha256=bank_sha256(architecture.gabor)),
        normalisation=Normalisation(mean=IMAGENET_MEAN, std=IMAGENET_STD),
        threshold=checkpoint.threshold,
        precision=settings.precision,
        opset=OPSET,
        half=half,
        parity=tuple(run.summaries.values()),
        parity_frames=samples.description,
        goldens=tuple(golden.name for golden in _goldens(run)),
        engines=engines,
        files={path.relative_to(folder).as_posix(): file_entry(path) for path in written},
        built_with=_versions(),
        built_at=datetime.now(UTC).isoformat(timespec="seconds"),
        licence=str(details.get("licence", "not stated")),
        intended_use=str(details.get("intended_use", INTENDED_USE)),
        training=dict(details),
    )


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{package: version(package) for package in _PACKAGES}}
