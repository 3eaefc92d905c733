"""The empty-frame gate in the runtime: what it skips, what every answer says of it, and when it does not serve."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from surgery import artefact, edit_manifest, put_constant_model, put_sealed, set_gate, skip_everything

from breastseg_deploy import BackendError, BundleError, Machine, ParityError, Segmenter
from breastseg_deploy.backends.gated import GatedCpu, bundle_gate, run_gated_goldens
from breastseg_deploy.backends.onnxruntime import OnnxRuntimeHalves
from breastseg_deploy.backends.select import choose
from breastseg_deploy.bundle import GATE, GATE_DECODER, GATE_ENCODER, MANIFEST, Bundle
from breastseg_deploy.gate import Gate
from breastseg_deploy.inference import Inference
from breastseg_deploy.machine import Processor
from breastseg_deploy.phantom import phantom_frame

SIDE = 128
ENGINES = ("openvino", "onnxruntime")

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def phantoms() -> NDArray[np.uint8]:
    """Ten phantoms, four with cells, (10, 128, 128)."""
    return np.stack([phantom_frame(number, (SIDE, SIDE)).frame for number in range(10)])


@pytest.fixture(scope="module")
def with_cells() -> NDArray[np.bool_]:
    return np.array([phantom_frame(number, (SIDE, SIDE)).mask.any() for number in range(10)])


def test_a_bundle_opened_without_it_skips_nothing_and_says_nothing_of_it(
    gated_bundle: Path, phantoms: NDArray[np.uint8]
) -> None:
    with Segmenter.open(gated_bundle, "onnxruntime") as segment:
        results = segment.batch(phantoms)
    assert {(result.skipped, result.gate_score) for result in results} == {(None, None)}


@pytest.mark.parametrize("backend", ENGINES)
def test_frames_that_it_lets_through_have_the_masks_they_have_without_it(
    gated_bundle: Path, phantoms: NDArray[np.uint8], with_cells: NDArray[np.bool_], backend: str
) -> None:
    with Segmenter.open(gated_bundle, backend) as whole, Segmenter.open(gated_bundle, backend, gate=True) as skipping:
        plain, found = whole.batch(phantoms), skipping.batch(phantoms)
    assert any(result.skipped for result in found)
    assert not any(result.skipped and cells for result, cells in zip(found, with_cells, strict=True))
    for result, other in zip(found, plain, strict=True):
        assert isinstance(result.gate_score, float)
        if result.skipped:
            assert not result.mask.any()
            assert result.probability is not None
            assert not result.probability.any()
        else:
            np.testing.assert_array_equal(result.mask, other.mask)
            np.testing.assert_allclose(result.probability, other.probability, atol=1e-4)
    assert list(found[0].timings) == ["contract", "preprocess", "encoder", "decoder", "check", "total"]


def test_engines_score_alike(gated_bundle: Path, phantoms: NDArray[np.uint8]) -> None:
    scores = []
    for backend in ENGINES:
        with Segmenter.open(gated_bundle, backend, gate=True) as segment:
            scores.append([result.gate_score for result in segment.batch(phantoms)])
            assert segment.gate is not None
            margin = segment.gate.margin
    np.testing.assert_allclose(scores[0], scores[1], atol=margin)


def test_a_single_frame_is_scored_by_itself(gated_bundle: Path, phantoms: NDArray[np.uint8]) -> None:
    with Segmenter.open(gated_bundle, "onnxruntime", gate=True) as segment:
        batch = segment.batch(phantoms)
        alone = [segment(frame) for frame in phantoms]
    assert [result.skipped for result in alone] == [result.skipped for result in batch]
    assert {type(result.skipped) for result in alone} == {bool}


def test_threads_get_their_own_answers(gated_bundle: Path, phantoms: NDArray[np.uint8]) -> None:
    with Segmenter.open(gated_bundle, "openvino", gate=True) as segment:
        expected = segment.batch(phantoms)
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(segment, np.concatenate([phantoms, phantoms])))
    for number, answer in enumerate(answers):
        np.testing.assert_array_equal(answer.mask, expected[number % 10].mask)
        assert answer.gate_score == expected[number % 10].gate_score


def test_auto_passes_over_every_gpu_with_the_reason(gated_bundle: Path) -> None:
    found = choose(Bundle.open(gated_bundle), gate=True)
    found.backend.close()
    assert (found.name in ENGINES, found.artefact) == (True, GATE)
    reason = "serves no empty-frame gate, which runs on the CPU alone"
    assert f"tensorrt, tensorrt-rtx, onnxruntime-cuda ({reason})" in found.reason


def test_a_gpu_backend_asked_for_by_name_serves_no_gate(gated_bundle: Path) -> None:
    with pytest.raises(BackendError, match="tensorrt serves no empty-frame gate"):
        Segmenter.open(gated_bundle, "tensorrt", gate=True)


@pytest.mark.parametrize(("backend", "role"), [("openvino-bf16", "gate-bf16"), ("openvino-int8", "gate-int8")])
def test_a_gate_in_float32_alone_is_served_in_no_other_precision(gated_bundle: Path, backend: str, role: str) -> None:
    machine = Machine(processor=Processor("with bfloat16", 2, bfloat16=True))
    with pytest.raises(BundleError, match=f"holds no {role} artefact .* or serve the gate by openvino"):
        Segmenter.open(gated_bundle, backend, gate=True, machine=machine)


def test_a_bundle_without_a_gate_is_refused(demo_bundle: Path) -> None:
    with pytest.raises(BundleError, match="holds no empty-frame gate; fit one with `breastseg fit-gate`"):
        Segmenter.open(demo_bundle, gate=True)


@pytest.mark.parametrize("backend", ENGINES)
def test_a_score_that_is_not_the_references_keeps_the_gate_from_serving(gated_copy: Path, backend: str) -> None:
    gate = bundle_gate(Bundle.open(gated_copy))
    assert gate is not None
    set_gate(gated_copy, golden_scores=[gate.golden_scores[0] + 0.01, *gate.golden_scores[1:]])
    with pytest.raises(ParityError, match=r"the gate scores goldens/golden-1.npz .* further apart than 0.001"):
        Segmenter.open(gated_copy, backend, gate=True)
    Segmenter.open(gated_copy, backend).close()


@pytest.mark.parametrize("backend", ENGINES)
def test_a_decoder_that_answers_otherwise_keeps_the_gate_from_serving(gated_copy: Path, backend: str) -> None:
    model = onnx.load(gated_copy / GATE_DECODER)
    (sigmoid,) = [node for node in model.graph.node if node.output[0] == model.graph.output[0].name]
    sigmoid.output[0] = "was the answer"
    zero = onnx.helper.make_tensor("zero", onnx.TensorProto.FLOAT, [1], [0.0])
    model.graph.initializer.append(zero)
    model.graph.node.append(onnx.helper.make_node("Mul", ["was the answer", "zero"], [model.graph.output[0].name]))
    put_sealed(gated_copy, GATE_DECODER, model.SerializeToString())
    with pytest.raises(ParityError, match=r"golden goldens/golden-\d.npz has Dice 0.0"):
        Segmenter.open(gated_copy, backend, gate=True)


@pytest.mark.parametrize("backend", ENGINES)
def test_a_half_with_other_inputs_is_a_backend_error(gated_copy: Path, backend: str) -> None:
    put_constant_model(gated_copy, ["N", 1, SIDE, SIDE], 0.0, name=GATE_DECODER)
    with pytest.raises(BackendError):
        Segmenter.open(gated_copy, backend, gate=True)


def test_a_missing_half_is_refused_at_opening(gated_copy: Path) -> None:
    edit_manifest(gated_copy, lambda raw: raw["files"].pop(GATE_ENCODER))
    with pytest.raises(BundleError, match=f"files lists no {GATE_ENCODER}"):
        Segmenter.open(gated_copy)


def test_the_self_test_skips_no_golden_whatever_the_threshold(gated_copy: Path, phantoms: NDArray[np.uint8]) -> None:
    skip_everything(gated_copy)
    with Segmenter.open(gated_copy, "onnxruntime", gate=True) as segment:
        assert min(result.dice for result in segment.self_test()) >= 0.9999
        results = segment.batch(phantoms)
    assert all(result.skipped and not result.mask.any() for result in results)


@pytest.mark.parametrize("change", ["encoder", "decoder", "limits", "gate"])
def test_the_verdict_is_kept_and_depends_on_all_that_was_tested(
    gated_copy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    caplog.set_level("INFO", "breastseg_deploy")
    machine = Machine(cache=tmp_path / "cache")
    for _ in range(2):
        Segmenter.open(gated_copy, "onnxruntime", gate=True, machine=machine).close()
    assert caplog.text.count("goldens passed on this machine") == 1
    if change in ("encoder", "decoder"):
        file = {"encoder": GATE_ENCODER, "decoder": GATE_DECODER}[change]
        model = onnx.load(gated_copy / file)
        model.doc_string = "the same, and another file"
        put_sealed(gated_copy, file, model.SerializeToString())
    elif change == "limits":
        edit_manifest(gated_copy, lambda raw: artefact(raw, GATE)["limits"].update(worst_dice=0.99999))
    else:
        set_gate(gated_copy, margin=0.002)
    Segmenter.open(gated_copy, "onnxruntime", gate=True, machine=machine).close()
    assert caplog.text.count("goldens passed on this machine") == 2


def test_a_golden_that_is_not_skipped_as_the_reference_says_keeps_the_gate_from_serving(gated_bundle: Path) -> None:
    class SkipsNothing(GatedCpu):
        def infer_gated(self, rgb: NDArray[np.uint8], *, probability: bool = True) -> Inference:
            return self.infer(rgb)

    bundle = Bundle.open(gated_bundle)
    with pytest.raises(ParityError, match=r"the gate must skip goldens/golden-\d.npz and did the contrary"):
        run_gated_goldens(SkipsNothing(OnnxRuntimeHalves(bundle), bundle), bundle, GATE, "the gate under test")


class FakeHalves:
    """Gives one score to every frame; notices a second frame before the first is done."""

    name, title, role = "fake", "fake 1.0", GATE
    islands: tuple[str, ...] = ()

    def __init__(self, score: float, answer: NDArray[Any] | None = None) -> None:
        self.score, self.decoded = score, 0
        self._answer = np.full((1, 1, SIDE, SIDE), 0.75, np.float32) if answer is None else answer
        self._busy = threading.Lock()

    def encode(self, tensor: NDArray[np.float32]) -> tuple[float, Sequence[Any]]:
        assert self._busy.acquire(blocking=False), "two frames at once"
        time.sleep(0.01)
        return self.score, ()

    def decode(self, features: Sequence[Any]) -> NDArray[np.float32]:
        self.decoded += 1
        self._busy.release()
        return self._answer

    def close(self) -> None:
        pass


def test_one_frame_at_a_time_goes_through_both_halves(gated_bundle: Path, phantoms: NDArray[np.uint8]) -> None:
    backend = GatedCpu(FakeHalves(1e6), Bundle.open(gated_bundle))
    rgb = np.stack([phantoms[0]] * 3, axis=2)[np.newaxis]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: backend.infer_gated(rgb), range(8)))
    assert len(found) == 8


def test_a_score_within_the_margin_of_the_threshold_skips_nothing(
    gated_bundle: Path, phantoms: NDArray[np.uint8]
) -> None:
    bundle = Bundle.open(gated_bundle)
    gate = bundle_gate(bundle)
    assert gate is not None
    rgb = np.stack([phantoms[0]] * 3, axis=2)[np.newaxis]
    for beyond, skipped in ((0.5, False), (1.5, True)):
        halves = FakeHalves(gate.threshold - beyond * gate.margin)
        found = GatedCpu(halves, bundle).infer_gated(rgb)
        assert found.skipped is not None
        assert (found.skipped.tolist(), halves.decoded) == ([skipped], 0 if skipped else 1)


@pytest.mark.parametrize("score", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_no_number_neither_skips_nor_serves(
    gated_bundle: Path, phantoms: NDArray[np.uint8], score: float
) -> None:
    backend = GatedCpu(FakeHalves(score), Bundle.open(gated_bundle))
    with pytest.raises(BackendError, match=r"score must be a finite number, got .* by fake 1\.0; no mask is returned"):
        backend.infer_gated(np.stack([phantoms[0]] * 3, axis=2)[np.newaxis])


@pytest.mark.parametrize(
    "answer", [np.full((1, 1, 1, 1), 0.75, np.float32), np.full((1, 1, SIDE, SIDE), 0.75, np.float64)]
)
def test_a_decoder_that_answers_with_another_shape_or_type_is_refused(
    gated_bundle: Path, phantoms: NDArray[np.uint8], answer: NDArray[Any]
) -> None:
    backend = GatedCpu(FakeHalves(1e6, answer), Bundle.open(gated_bundle))
    with pytest.raises(BackendError, match=r"the gate artefact must answer with float32 \(1, 1, 128, 128\), got"):
        backend.infer_gated(np.stack([phantoms[0]] * 3, axis=2)[np.newaxis])


def test_a_gate_of_the_manifest_must_be_whole(gated_copy: Path) -> None:
    edit_manifest(gated_copy, lambda raw: artefact(raw, GATE)["details"].pop("miss_bound"))
    with pytest.raises(BundleError, match="the manifest's gate artefact: miss_bound"):
        Bundle.open(gated_copy)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"miss_bound": 0.0001}, "is no k / (n + 1) of"),
        ({"miss_bound": 0.5}, "is no k / (n + 1) of"),
        ({"recall": 0.999}, "allows more misses than the recall 0.999"),
        ({"threshold": 1e6}, "golden_skipped is not what golden_scores and threshold say"),
        ({"margin": 0.0}, "is over the margin 0.0"),
        ({"parity_frames_with_cells_skipped": 11}, "more parity frames with cells are skipped than parity frames"),
        ({"size_px": [64, 64]}, "holds a gate for frames of (64, 64) px and takes (128, 128)"),
        ({"size_px": [-1, 0]}, "gate artefact: size_px"),
    ],
)
def test_a_gate_that_contradicts_itself_or_its_bundle_is_refused(
    gated_copy: Path, fields: dict[str, Any], words: str
) -> None:
    set_gate(gated_copy, **fields)
    with pytest.raises(BundleError) as refusal:
        bundle_gate(Bundle.open(gated_copy))
    assert words in str(refusal.value)


def test_an_export_writes_the_newest_schema_with_and_without_a_gate(demo_bundle: Path, gated_bundle: Path) -> None:
    plain, with_gate = (json.loads((bundle / MANIFEST).read_text()) for bundle in (demo_bundle, gated_bundle))
    assert [one["role"] for one in plain["artefacts"]] == ["portable", "fp16", "bf16", "slide"]
    assert [one["role"] for one in with_gate["artefacts"]] == ["portable", "gate"]
    assert plain["schema_version"] == with_gate["schema_version"] == 3


def test_the_promise_is_in_words(gated_bundle: Path) -> None:
    gate = bundle_gate(Bundle.open(gated_bundle))
    assert isinstance(gate, Gate)
    assert "skipped with a probability of at most 0.0" in gate.promise
