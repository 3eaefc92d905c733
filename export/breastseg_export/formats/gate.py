"""The empty-frame gate in a bundle: the network cut before its decoder, and its scores held to the reference's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import isfinite

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from breastseg_deploy.bundle import GATE, GATE_DECODER, GATE_ENCODER, TENSOR
from breastseg_deploy.errors import ArgumentError, ParityError
from breastseg_deploy.gate import FEATURES, LEAST_CHANCE, SCORE, Gate
from breastseg_deploy.manifest import TensorSpec
from breastseg_deploy.preprocess.gabor import GaborParameters
from breastseg_deploy.preprocess.tensor import network_input
from breastseg_deploy.progress import Progress
from breastseg_export.formats.format import PROBABILITY_SPEC, TENSOR_SPEC, ArtefactNotes, Candidate, Work
from breastseg_export.graph import LOGITS, behind_sigmoid, export_graph
from breastseg_export.named_frames import NamedFrame, NamedFrames
from breastseg_export.parity import FP32_LIMITS, Compared, ParityRun, stricter
from breastseg_export.runners import Engine, session
from breastseg_train.network.model import SegmentationModel
from breastseg_train.run.gate import FittedGate

SCORE_MARGIN = 1e-3
"""How far a score may lie from the reference's, see `gate.Gate.margin`. Float32 engines come to about 1e-5."""

Scores = Callable[[NDArray[np.uint8]], float]
"""(H, W, 3) uint8 to a gate's score."""


class _Encoder(nn.Module):
    """(N, 4, H, W) to score (N,) and features."""

    def __init__(self, model: SegmentationModel, gate: nn.Module) -> None:
        super().__init__()
        self.model, self.gate = model, gate

    def forward(self, tensor: Tensor) -> tuple[Tensor, ...]:
        features = self.model.encode(tensor)
        return self.gate(features), *features


class _Decoder(nn.Module):
    """Features to logits (N, 1, H, W). They are named one by one: a dynamic batch cannot be stated for a list."""

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, first: Tensor, second: Tensor, third: Tensor, fourth: Tensor, fifth: Tensor) -> Tensor:
        return self.model.decode([first, second, third, fourth, fifth])


class GateHalves:
    """The format; see the module.

    Args:
        fitted: the checkpoint's gate.
        size_px: (H, W) of the export.
    """

    after_parity = False

    def __init__(self, fitted: FittedGate, size_px: tuple[int, int]) -> None:
        self._fitted, self._size_px = fitted, size_px

    def check(self, frames: NamedFrames) -> None:
        """See `check_gate_size`."""
        check_gate_size(self._fitted, self._size_px)

    def make(self, work: Work) -> Candidate:
        """Both halves; their scores are held to the reference's after parity, on the same frames."""
        model = work.checkpoint.model
        with Progress("tracing the halves of the gate"):
            graphs = gated_graphs(model, self._fitted, work.size_px)
        segment, score = gated_in_onnxruntime(graphs, work.gabor)

        def notes(run: ParityRun) -> ArtefactNotes:
            with Progress("gate", len(work.frames), "frames") as progress:
                reference = reference_scores(model, self._fitted)
                gate = measured_gate(self._fitted, reference, score, work.frames, run, progress.update)
            return ArtefactNotes(gate, gate_facts(gate))

        return Candidate(
            GATE,
            {name: graphs[name].SerializeToString for name in (GATE_DECODER, GATE_ENCODER)},
            (TENSOR_SPEC,),
            (PROBABILITY_SPEC, TensorSpec(name=SCORE, axes="N", dtype="float32")),
            (Compared(GATE_DECODER, "ONNX Runtime", segment, stricter(FP32_LIMITS, work.settings.min_dice)),),
            notes,
        )


def check_gate_size(fitted: FittedGate, size_px: tuple[int, int]) -> None:
    """Refuse another frame size than the gate's.

    Raises:
        ArgumentError: the guarantee is one for frames of the calibration's size.
    """
    if fitted.calibration.size_px != size_px:
        raise ArgumentError(
            f"the checkpoint's gate was calibrated on frames of {fitted.calibration.size_px} px (H, W), and this "
            f"bundle is for {size_px}; fit it on frames of that size (breastseg fit-gate), or export for the gate's own"
        )


def gated_graphs(model: SegmentationModel, fitted: FittedGate, size_px: tuple[int, int]) -> dict[str, onnx.ModelProto]:
    """The network in two graphs by file name: tensor to score and features, features to probability."""
    tensor = torch.zeros(2, 4, *size_px)
    with torch.inference_mode():
        features = model.encode(tensor)
    encoder = export_graph(_Encoder(model, fitted.gate).eval(), {TENSOR: tensor}, [SCORE, *FEATURES])
    inputs = {name: torch.zeros(feature.shape) for name, feature in zip(FEATURES, features, strict=True)}
    decoder = export_graph(_Decoder(model).eval(), inputs, [LOGITS])
    whole = behind_sigmoid(decoder, size_px)
    onnx.checker.check_model(whole, full_check=True)
    return {GATE_ENCODER: encoder, GATE_DECODER: whole}


def gated_in_onnxruntime(graphs: dict[str, onnx.ModelProto], gabor: GaborParameters) -> tuple[Engine, Scores]:
    """Both graphs one after the other behind the CPU preprocessing, no frame skipped; and the scores alone."""
    encoder, decoder = session(graphs[GATE_ENCODER]), session(graphs[GATE_DECODER])

    def segment(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        features = encoder.run(list(FEATURES), {TENSOR: network_input(frame[np.newaxis], gabor)})
        return np.asarray(decoder.run(None, dict(zip(FEATURES, features, strict=True)))[0][0, 0])

    def score(frame: NDArray[np.uint8]) -> float:
        return float(encoder.run([SCORE], {TENSOR: network_input(frame[np.newaxis], gabor)})[0][0])

    return segment, score


def reference_scores(model: SegmentationModel, fitted: FittedGate) -> Scores:
    """Scores by PyTorch in float32, which the threshold was set on."""

    def score(frame: NDArray[np.uint8]) -> float:
        tensor = torch.from_numpy(network_input(frame[np.newaxis], model.architecture.gabor))
        with torch.inference_mode():
            return float(fitted.gate(model.encode(tensor))[0])

    return score


def measured_gate(
    fitted: FittedGate,
    reference: Scores,
    exported: Scores,
    frames: Iterable[NamedFrame],
    run: ParityRun,
    on_frame: Callable[[], object] = lambda: None,
) -> Gate:
    """The gate in float32 as the manifest states it; see `scored_gate`.

    Raises:
        ParityError: it must not be served.
    """
    gate = scored_gate(fitted, reference, exported, frames, run, on_frame)
    if gate.refusal:
        raise ParityError(
            f"{gate.refusal}; no bundle was written: fit the gate again on frames of this kind, or export with "
            "--frames of the kind that it was calibrated on"
        )
    return gate


def scored_gate(
    fitted: FittedGate,
    reference: Scores,
    exported: Scores,
    frames: Iterable[NamedFrame],
    run: ParityRun,
    on_frame: Callable[[], object] = lambda: None,
    *,
    margin: float = SCORE_MARGIN,
    cut: tuple[str, ...] = (),
    words: str = "gate",
) -> Gate:
    """The gate as the manifest states it, its exported scores held to the reference's on every parity frame.

    It says why it must not be served where a score lies further from the reference's than the margin, or so many parity
    frames with cells are skipped that the promise cannot hold for frames like these.

    Args:
        fitted: the checkpoint's gate.
        reference: its scores.
        exported: those of what the export made.
        frames: the parity frames.
        run: their parity.
        on_frame: called after each frame, for a progress bar.
        margin: see `gate.Gate`.
        cut: see `gate.Gate`.
        words: what to call it in a refusal.

    Raises:
        ParityError: a score is no number.
    """
    serving_threshold, skipped, skipped_with_cells = fitted.calibration.threshold - margin, 0, 0
    errors: dict[str, float] = {}
    of_frames = next(iter(run.figures.values()))
    with_cells = sum(figures.with_cells for figures in of_frames)
    for one, figures in zip(frames, of_frames, strict=True):
        expected, found = reference(one.frame), exported(one.frame)
        if not isfinite(found):
            raise ParityError(
                f"the {words} scores {one.name} {found}, the reference {expected:.6f}, further apart than {margin}; "
                "no bundle was written: fit the gate again, and look at this frame"
            )
        errors[one.name] = abs(found - expected)
        skipped += found < serving_threshold
        skipped_with_cells += found < serving_threshold and figures.with_cells
        on_frame()
    worst = max(errors, key=lambda name: errors[name])
    chance, refusal = fitted.calibration.chance(with_cells, skipped_with_cells), ""
    if not errors[worst] <= margin:
        refusal = f"the {words} scores {worst} {errors[worst]:.6f} from the reference, further apart than {margin}"
    elif chance < LEAST_CHANCE:
        refusal = (
            f"the {words} skips {skipped_with_cells} of {with_cells} parity frames with cells, which its promise "
            f"makes a chance of {chance:.1e}"
        )
    scores = tuple(reference(golden.frame) for golden in run.goldens)
    return Gate(
        **fitted.calibration.model_dump(),
        margin=margin,
        largest_score_error=errors[worst],
        golden_scores=scores,
        golden_skipped=tuple(score < serving_threshold for score in scores),
        parity_frames_skipped=skipped,
        parity_frames_with_cells_skipped=skipped_with_cells,
        cut=cut,
        refusal=refusal,
    )


def gate_facts(gate: Gate) -> Sequence[tuple[str, str]]:
    """What report and `breastseg inspect` say of it."""
    return (
        ("empty-frame gate", f"off unless asked for; {gate.promise}"),
        (
            "gate calibrated on",
            f"{gate.calibrated_on}: {gate.frames_with_cells} frames with cells, {gate.frames_empty} empty",
        ),
        (
            "parity frames skipped",
            f"{gate.parity_frames_skipped}, with cells {gate.parity_frames_with_cells_skipped}",
        ),
    )
