"""A network in two halves with the empty-frame gate between them, on the CPU.

In float32 the halves are files of the bundle (`gate/encoder.onnx`, `gate/decoder.onnx`), whose parity was measured with
no frame skipped; in a lower precision they are the whole network of that precision, cut where its encoder ends. What an
engine makes of them here is held to the goldens before it serves: masks, and scores.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from math import isfinite
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.artefacts import details_of
from breastseg_deploy.bundle import GATE, Bundle
from breastseg_deploy.errors import BackendError, BundleError, ParityError
from breastseg_deploy.gate import Gate
from breastseg_deploy.inference import GatedBackend, Inference
from breastseg_deploy.machine import Machine
from breastseg_deploy.preprocess.tensor import network_input
from breastseg_deploy.selftest import GoldenResult, cpu_verdict_key, run_goldens, self_test_once
from breastseg_deploy.verdicts import Verdicts


class Halves(Protocol):
    """Both halves of a network, loaded by one engine. One thread at a time calls it.

    Attributes:
        name: of the backend.
        title: name, version and settings of the engine.
        role: of the gate: `bundle.GATE`, or the same in another precision.
        islands: nodes in float32 beside the rest; none for another role than bfloat16's.
    """

    name: str
    title: str
    role: str
    islands: tuple[str, ...]

    def encode(self, tensor: NDArray[np.float32]) -> tuple[float, Sequence[Any]]:
        """Score and features of one preprocessed frame (1, 4, H, W); the features are good until the next call.

        Raises:
            BackendError: the engine failed.
        """

    def decode(self, features: Sequence[Any]) -> NDArray[np.float32]:
        """Probability (1, 1, H, W) of the last frame's features; good until the next call.

        Raises:
            BackendError: the engine failed.
        """

    def close(self) -> None:
        """Give the engine's memory back."""


class GatedCpu:
    """A backend that skips the decoder where the gate finds a frame empty; batches are run frame by frame."""

    def __init__(self, halves: Halves, bundle: Bundle, threads: int = 1) -> None:
        self._halves = halves
        self._gate = bundle_gate(bundle, halves.role)
        self._size_px = bundle.manifest.frame.size_px
        self._gabor = bundle.manifest.gabor.parameters()
        self._threads = threads
        self._turn = threading.Lock()

    def infer(self, rgb: NDArray[np.uint8], *, probability: bool = True) -> Inference:
        """Probabilities (N, H, W) of a checked batch (N, H, W, 3), and scores; no frame is skipped."""
        return self._infer(rgb, -np.inf)

    def infer_gated(self, rgb: NDArray[np.uint8], *, probability: bool = True) -> Inference:
        """The same, with the probability 0 for each frame whose score lies under the gate's threshold."""
        return self._infer(rgb, self._gate.serving_threshold)

    def close(self) -> None:
        """Drop both halves."""
        self._halves.close()

    def _infer(self, rgb: NDArray[np.uint8], least_score: float) -> Inference:
        probability = np.zeros((len(rgb), *self._size_px), np.float32)
        scores, skipped = np.empty(len(rgb), np.float32), np.zeros(len(rgb), np.bool_)
        seconds = {"preprocess": 0.0, "encoder": 0.0, "decoder": 0.0}
        for number in range(len(rgb)):
            started = time.perf_counter()
            tensor = network_input(rgb[number : number + 1], self._gabor, self._threads)
            preprocessed = time.perf_counter()
            with self._turn:
                score, features = self._halves.encode(tensor)
                encoded = time.perf_counter()  # with waiting for other threads
                if not isfinite(score):
                    raise BackendError(
                        f"the gate's score must be a finite number, got {score} by {self._halves.title}; no mask is "
                        "returned: run `breastseg verify` on this bundle"
                    )
                scores[number], skipped[number] = score, score < least_score
                if not skipped[number]:
                    probability[number] = self._decoded(features)
            for stage, since, until in (
                ("preprocess", started, preprocessed),
                ("encoder", preprocessed, encoded),
                ("decoder", encoded, time.perf_counter()),
            ):
                seconds[stage] += until - since
        return Inference(probability, seconds, scores=scores, skipped=skipped)

    def _decoded(self, features: Sequence[Any]) -> NDArray[np.float32]:
        answer = self._halves.decode(features)
        if answer.shape != (1, 1, *self._size_px) or answer.dtype != np.float32:
            raise BackendError(
                f"the decoder of the {self._halves.role} artefact must answer with float32 {(1, 1, *self._size_px)}, "
                f"got {answer.dtype} {answer.shape}; no mask is returned: export the bundle again"
            )
        return np.asarray(answer[0, 0])


def open_gated(halves: Halves, bundle: Bundle, machine: Machine) -> GatedCpu:
    """Both halves as a backend, once they reproduce masks and scores of the bundle's goldens on this machine.

    Raises:
        BackendError: the engine failed.
        ParityError: a golden misses the limit, or its score the margin.
        BundleError: the bundle holds no gate in that precision, or a golden is damaged.
    """
    try:
        backend = GatedCpu(halves, bundle, machine.processor.cores)
        engine = {
            "engine": halves.title,
            "islands": " ".join(halves.islands),
            "gate": bundle_gate(bundle, halves.role).model_dump_json(),
        }
        key = cpu_verdict_key(f"gate-{halves.name}", bundle, halves.role, engine, machine)
        self_test_once(key, Verdicts(machine), lambda: run_gated_goldens(backend, bundle, halves.role, halves.title))
    except BaseException:
        halves.close()
        raise
    return backend


def run_gated_goldens(backend: GatedBackend, bundle: Bundle, role: str, engine: str) -> tuple[GoldenResult, ...]:
    """Run the goldens by a gated backend: masks with no frame skipped, scores, and what is skipped.

    Raises:
        ParityError: a mask misses the limit of that role; a score lies further from the reference's than
            the gate's margin; a golden is skipped that should not be, or the other way round.
    """
    gate, goldens, threshold = bundle_gate(bundle, role), bundle.goldens(), bundle.manifest.threshold
    for golden, expected, skip in zip(goldens, gate.golden_scores, gate.golden_skipped, strict=True):
        found = backend.infer_gated(golden.frame[np.newaxis])
        score = float("nan") if found.scores is None else float(found.scores[0])
        if not abs(score - expected) <= gate.margin:
            raise ParityError(
                f"the gate scores {golden.name} {score:.6f} by {engine}, the reference {expected:.6f}, further apart "
                f"than {gate.margin}; do not use the gate on this machine: run `breastseg doctor`"
            )
        near = abs(expected - gate.serving_threshold) <= gate.margin  # where rounding may decide
        if found.skipped is None or (bool(found.skipped[0]) != skip and not near):
            raise ParityError(
                f"the gate must {'skip' if skip else 'let through'} {golden.name} and did the contrary by {engine}; "
                "do not use the gate on this machine: run `breastseg doctor`"
            )

    def run(rgb: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        probability = backend.infer(rgb).checked(rgb.shape[:3], engine)
        return (probability >= threshold).astype(np.uint8), probability

    return run_goldens(bundle, role, run, 1, engine)


def bundle_gate(bundle: Bundle, role: str = GATE) -> Gate:
    """The bundle's gate, for the network in the precision of a role.

    Raises:
        BundleError: it holds none, one that its export refused in that precision, one for other frames, or one without
            a score for each golden.
    """
    if role != GATE:
        bundle_gate(bundle)  # one without any gate says how to come to one
    found = details_of(bundle.manifest, role, Gate)
    if not found and role != GATE:
        raise BundleError(f"{bundle.path} {bundle.holds_no(role)}; export it again, or serve the gate by openvino")
    if not found:
        raise BundleError(
            f"{bundle.path} holds no empty-frame gate; fit one with `breastseg fit-gate` and export that checkpoint, "
            "or open the bundle without gate"
        )
    gate, size_px = found[0], bundle.manifest.frame.size_px
    if gate.size_px != size_px:
        raise BundleError(
            f"{bundle.path} holds a gate for frames of {gate.size_px} px and takes {size_px}: its promise does not "
            "hold for them; export it again"
        )
    if gate.refusal:
        raise BundleError(f"{bundle.path}: {gate.refusal}; open it without gate, or with openvino or onnxruntime")
    if len(gate.golden_scores) != len(bundle.manifest.goldens):
        raise BundleError(f"{bundle.path}: its gate has no score for each golden; export it again")
    return gate
