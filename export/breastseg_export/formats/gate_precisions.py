"""The empty-frame gate in bfloat16 and INT8: the network of that precision, cut where its encoder ends, and its scores.

Nothing is written for it beside what the manifest says. Masks are those of the whole network, whose parity it states.
Scores are measured on every parity frame; where they leave the margin, the manifest says why nobody may serve it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from breastseg_deploy.artefacts import Bf16Precision
from breastseg_deploy.backends.openvino_halves import ending_at
from breastseg_deploy.backends.openvino_library import compiled_request, load_openvino, openvino_border
from breastseg_deploy.bundle import (
    BF16,
    GATE_BF16,
    GATE_ENCODER,
    GATE_INT8,
    INT8,
    INT8_NETWORK,
    INT8_WEIGHTS,
    TENSOR,
)
from breastseg_deploy.errors import BackendError
from breastseg_deploy.gate import FEATURES, SCORE, Gate
from breastseg_deploy.manifest import TensorSpec
from breastseg_deploy.preprocess.tensor import network_input
from breastseg_deploy.progress import Progress
from breastseg_export.formats.format import PROBABILITY_SPEC, ArtefactNotes, Candidate, Work
from breastseg_export.formats.gate import Scores, reference_scores, scored_gate
from breastseg_export.named_frames import NamedFrames
from breastseg_export.parity import ParityRun
from breastseg_export.precision.bfloat import rounded_to_bfloat16
from breastseg_export.precision.layers import described_values, groups, part
from breastseg_export.runners import session
from breastseg_train.run.gate import FittedGate

_ROLES = {BF16: GATE_BF16, INT8: GATE_INT8}
_WORDS = {BF16: "bfloat16", INT8: "INT8"}
MARGINS = {BF16: 0.5, INT8: 0.5}
"""How far a score may lie from the reference's, see `gate.Gate.margin`; what was measured stands in docs/LOG.md."""

_BEFORE_THE_DECODER = ("projection", "stem", "encoder")
"""Groups of layers (`precision.layers.groups`)."""

Features = Callable[[NDArray[np.float32]], Sequence[NDArray[np.float32]]]
"""Tensor (1, 4, H, W) to what the decoder reads, from (1, C, H / 2, W / 2) to H / 32."""


class GateInPrecision:
    """The format; see the module.

    Args:
        fitted: the checkpoint's gate.
        whole: role of the network: `BF16` or `INT8`.
    """

    after_parity = True

    def __init__(self, fitted: FittedGate, whole: str) -> None:
        self._fitted, self._whole = fitted, whole

    def check(self, frames: NamedFrames) -> None:
        """Nothing that the gate in float32 has not looked at."""

    def make(self, work: Work) -> Candidate:
        """The cut of the network that has passed, held to its margin once it is told the parity of the whole.

        Raises:
            BackendError: the network cannot be cut.
        """
        whole = work.passed[self._whole].candidate
        encoder = encoder_part(work.network)
        cut = tuple(value.name for value in encoder.graph.output)
        features = self._features(work, encoder, cut)

        def notes(run: ParityRun) -> ArtefactNotes:
            reference = reference_scores(work.checkpoint.model, self._fitted)
            exported = _scores(self._fitted, features, work)
            words = f"gate in {_WORDS[self._whole]}"
            with Progress(words, len(work.frames), "frames") as progress:
                gate = scored_gate(
                    self._fitted, reference, exported, work.frames, run, progress.update,
                    margin=MARGINS[self._whole], cut=cut, words=words,
                )  # fmt: skip
            if gate.refusal:
                work.say(gate.refusal)
            return ArtefactNotes(gate, ((f"empty-frame {words}", _fact(gate)),))

        return Candidate(
            _ROLES[self._whole],
            {},
            whole.inputs,
            (PROBABILITY_SPEC, TensorSpec(name=SCORE, axes="N", dtype="float32")),
            whole.compared,
            notes,
            holds_goldens=whole.holds_goldens,
            shared=(*whole.shared, *whole.files, GATE_ENCODER),
        )

    def _features(self, work: Work, encoder: onnx.ModelProto, cut: Sequence[str]) -> Features:
        passed = work.passed[self._whole]
        if self._whole == INT8:
            files = passed.candidate.files
            return _int8_features(files[INT8_NETWORK](), files[INT8_WEIGHTS](), cut)
        details = passed.notes.details
        assert isinstance(details, Bf16Precision)
        return _rounded_features(encoder, details.fp32_islands)


def encoder_part(network: onnx.ModelProto) -> onnx.ModelProto:
    """The part of an exported network before its decoder; its outputs are what the decoder reads, in that order.

    Raises:
        BackendError: the decoder reads another number of values than the gate knows names for.
    """
    names = {
        node.name for group in groups(network) for node in group.nodes if group.name.startswith(_BEFORE_THE_DECODER)
    }
    nodes = [node for node in network.graph.node if node.name in names]
    found = part(network, nodes, described_values(network))
    if len(found.graph.output) != len(FEATURES):
        raise BackendError(
            f"the decoder must read {len(FEATURES)} values of the encoder, and reads {len(found.graph.output)}; use "
            "the version of torch of constraints.txt"
        )
    return found


def _rounded_features(encoder: onnx.ModelProto, islands: Sequence[str]) -> Features:
    """The encoder in bfloat16 as `rounded_to_bfloat16` shows it."""
    rounded = session(rounded_to_bfloat16(encoder, islands))
    return lambda tensor: rounded.run([value.name for value in encoder.graph.output], {TENSOR: tensor})


def _int8_features(xml: bytes, weights: bytes, cut: Sequence[str]) -> Features:
    """The encoder of the INT8 network, compiled as the runtime compiles it."""
    ov = load_openvino()
    core = ov.Core()
    with openvino_border("cannot cut the INT8 network", "export a checkpoint without gate"):
        request = compiled_request(ov, core, ending_at(ov, core.read_model(xml, weights), cut))

    def run(tensor: NDArray[np.float32]) -> Sequence[Any]:
        with openvino_border("failed in INT8", "export a checkpoint without gate"):
            request.infer({0: tensor})
            return [np.array(request.get_output_tensor(level).data) for level in range(len(cut))]

    return run


def _scores(fitted: FittedGate, features: Features, work: Work) -> Scores:
    def score(frame: NDArray[np.uint8]) -> float:
        found = features(network_input(frame[np.newaxis], work.gabor))
        with torch.inference_mode():
            return float(fitted.gate([torch.from_numpy(feature) for feature in found])[0])

    return score


def _fact(gate: Gate) -> str:
    if gate.refusal:
        return f"not served: {gate.refusal}"
    return (
        f"scores up to {gate.largest_score_error:.4f} from the reference's, margin {gate.margin}; parity frames "
        f"skipped: {gate.parity_frames_skipped}, with cells {gate.parity_frames_with_cells_skipped}"
    )
