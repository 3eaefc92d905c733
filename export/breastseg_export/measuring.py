"""Everything that an export makes, held to the float32 reference on the samples."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from breastseg_deploy.bundle import GATE_DECODER, INT8_NETWORK, MODEL, NETWORK_FP16
from breastseg_deploy.gate import Gate
from breastseg_deploy.manifest import HalfPrecision
from breastseg_deploy.progress import Progress
from breastseg_export import runners
from breastseg_export.formats.gate import gated_in_onnxruntime, measured_gate, reference_scores
from breastseg_export.formats.int8 import QuantisedNetwork, int8_in_openvino
from breastseg_export.parity import (
    FP16_LIMITS,
    FP32_LIMITS,
    INT8_LIMITS,
    Artefact,
    ParityRun,
    compare,
    failures,
    stricter,
)
from breastseg_export.precision.half import half_network
from breastseg_export.precision.islands import IslandSearch, described, watched_frames
from breastseg_export.precision.ranges import Watch, necessary_islands
from breastseg_export.samples import Samples
from breastseg_train.network.checkpoint import Checkpoint

_ATTEMPTS = 3
"""Sets of float32 islands that are held to all frames before an export gives up."""


def half_parity(
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
    with _progress(samples, "ranges") as progress:
        frames = watched_frames(
            watch, samples, checkpoint.model.architecture.gabor, checkpoint.threshold, progress.update
        )
    necessary = necessary_islands(network, watch.ranges)
    say(f"{len(necessary)} nodes must be float32; looking for the smallest set of further ones")
    limits = stricter(FP16_LIMITS, min_dice)
    search = IslandSearch(network, necessary, frames, checkpoint.threshold, limits)
    with Progress("float32 islands: trying sets"):
        groups = search.smallest()
    for attempts_left in reversed(range(_ATTEMPTS)):
        islands = search.islands(groups)
        graphs[NETWORK_FP16] = half_network(network, islands)
        more = ", ".join(search.in_order(groups)) or "none"
        say(f"measuring parity on {samples.description}; further layers in float32: {more}")
        run = parity(checkpoint, graphs, samples, min_dice)
        larger = search.larger(groups) if attempts_left and _only_half_fails(run) else None
        if larger is None:
            break
        groups = larger
    return run, described(search, groups, watch, necessary)


def _only_half_fails(run: ParityRun) -> bool:
    failing = [title for title, summary in run.summaries.items() if failures({title: summary})]
    return bool(failing) and all(run.summaries[title].artefact == NETWORK_FP16 for title in failing)


def parity(
    checkpoint: Checkpoint,
    graphs: dict[str, onnx.ModelProto],
    samples: Samples,
    min_dice: float | None,
    int8: QuantisedNetwork | None = None,
) -> ParityRun:
    """Parity of every graph of the bundle.

    Args:
        checkpoint: the reference.
        graphs: by file name.
        samples: the frames.
        min_dice: see `ExportSettings`.
        int8: the INT8 network, where there is one.

    Raises:
        ParityError: the reference's own answer is not finite.
    """
    model, gabor = checkpoint.model, checkpoint.model.architecture.gabor
    compared = [
        Artefact(
            MODEL,
            "ONNX Runtime",
            runners.portable_in_onnxruntime(graphs[MODEL]),
            stricter(FP32_LIMITS, min_dice),
        )
    ]
    if GATE_DECODER in graphs:
        segment, _ = gated_in_onnxruntime(graphs, gabor)
        compared.append(Artefact(GATE_DECODER, "ONNX Runtime", segment, stricter(FP32_LIMITS, min_dice)))
    if int8 is not None:
        run = int8_in_openvino(int8, gabor)
        compared.append(Artefact(INT8_NETWORK, "OpenVINO", run, stricter(INT8_LIMITS, min_dice)))
    if NETWORK_FP16 in graphs:
        half = runners.network_in_onnxruntime(graphs[NETWORK_FP16], gabor)
        compared.append(Artefact(NETWORK_FP16, "ONNX Runtime", half, stricter(FP16_LIMITS, min_dice)))
    with _progress(samples, "parity") as progress:
        return compare(runners.reference(model), compared, samples, checkpoint.threshold, progress.update)


def gate_parity(
    checkpoint: Checkpoint, graphs: dict[str, onnx.ModelProto], samples: Samples, run: ParityRun
) -> Gate | None:
    """The gate as the manifest states it; None for a checkpoint without one.

    Raises:
        ParityError: its scores are not the reference's.
    """
    if checkpoint.gate is None:
        return None
    _, exported = gated_in_onnxruntime(graphs, checkpoint.model.architecture.gabor)
    reference = reference_scores(checkpoint.model, checkpoint.gate)
    with _progress(samples, "gate") as progress:
        return measured_gate(checkpoint.gate, reference, exported, samples, run, progress.update)


def _progress(samples: Samples, what: str) -> Progress:
    return Progress(what, len(samples), "frames")
