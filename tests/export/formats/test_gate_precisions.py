"""The empty-frame gate in bfloat16 and INT8: the network of that precision cut in two, its scores held to a margin."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from written_phantoms import SIZE

from breastseg_deploy import BackendError, BundleError, Machine, ParityError, Segmenter
from breastseg_deploy.artefacts import details_of
from breastseg_deploy.backends.gated import bundle_gate
from breastseg_deploy.backends.select import choose
from breastseg_deploy.bundle import BF16, GATE_BF16, GATE_ENCODER, GATE_INT8, INT8, MANIFEST, MODEL, Bundle
from breastseg_deploy.cli.main import main
from breastseg_deploy.gate import Gate
from breastseg_deploy.machine import Processor
from breastseg_deploy.phantom import phantom_frame
from breastseg_export.formats.gate import scored_gate
from breastseg_export.formats.gate_precisions import MARGINS
from breastseg_export.named_frames import NamedFrames
from breastseg_export.parity import ParityRun, frame_parity
from breastseg_train.network.checkpoint import load_checkpoint

ROLES = {"openvino-bf16": GATE_BF16, "openvino-int8": GATE_INT8}


@pytest.fixture(params=ROLES)
def backend(request: pytest.FixtureRequest) -> str:
    """A backend of a lower precision that this processor can run."""
    name = str(request.param)
    if name == "openvino-bf16" and not Machine().processor.bfloat16:
        pytest.skip("this processor does not multiply in bfloat16")
    return name


@pytest.fixture
def altered(exported: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(copytree(exported, tmp_path / "bundle"))


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BREASTSEG_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def phantoms() -> NDArray[np.uint8]:
    """Six, some of them empty, (6, 128, 128)."""
    return np.stack([phantom_frame(number, SIZE).frame for number in range(40, 46)])


def set_gate(bundle: Path, role: str, change: Callable[[Any], object]) -> None:
    raw = json.loads((bundle / MANIFEST).read_text())
    change(next(one for one in raw["artefacts"] if one["role"] == role)["details"])
    (bundle / MANIFEST).write_text(json.dumps(raw))


def test_it_adds_no_file_and_states_the_parity_of_the_whole_network(exported: Path) -> None:
    manifest = Bundle.open(exported).manifest
    for role, whole, files in (
        (GATE_BF16, BF16, (MODEL,)),
        (GATE_INT8, INT8, ("int8/network.xml", "int8/network.bin")),
    ):
        ours, theirs = manifest.artefact(role), manifest.artefact(whole)
        assert ours is not None
        assert theirs is not None
        assert ours.files == (*files, GATE_ENCODER)
        assert (ours.parity, ours.limits, ours.golden_dice) == (theirs.parity, theirs.limits, theirs.golden_dice)


def test_its_scores_keep_to_a_margin_that_the_threshold_is_lowered_by(exported: Path) -> None:
    bundle = Bundle.open(exported)
    for role, whole in ((GATE_BF16, BF16), (GATE_INT8, INT8)):
        gate = bundle_gate(bundle, role)
        assert gate.largest_score_error <= gate.margin == MARGINS[whole]
        assert gate.serving_threshold == gate.threshold - gate.margin
        assert gate.golden_scores == bundle_gate(bundle).golden_scores
    assert bundle_gate(bundle, GATE_BF16).largest_score_error > 1e-3  # it is another encoder


def test_inspect_names_the_gate_of_each_precision(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(exported)]) == 0
    shown = capsys.readouterr().out
    assert "empty-frame gate in bfloat16" in shown
    assert "empty-frame gate in INT8" in shown


def test_frames_that_it_lets_through_have_the_masks_of_the_whole_network(
    exported: Path, phantoms: NDArray[np.uint8], backend: str
) -> None:
    with Segmenter.open(exported, backend) as whole, Segmenter.open(exported, backend, gate=True) as skipping:
        assert (skipping.artefact, skipping.gate) == (
            ROLES[backend],
            bundle_gate(Bundle.open(exported), ROLES[backend]),
        )
        plain, found = whole.batch(phantoms), skipping.batch(phantoms)
        assert min(result.dice for result in skipping.self_test()) >= 0.97
    assert {result.skipped for result in found} == {True, False}
    for result, other in zip(found, plain, strict=True):
        if result.skipped:
            assert not result.mask.any()
        else:
            np.testing.assert_allclose(result.probability, other.probability, atol=0.02)


def test_it_scores_as_its_export_found(exported: Path, phantoms: NDArray[np.uint8], backend: str) -> None:
    with (
        Segmenter.open(exported, "onnxruntime", gate=True) as full,
        Segmenter.open(exported, backend, gate=True) as reduced,
    ):
        ours, theirs = ([result.gate_score for result in one.batch(phantoms)] for one in (reduced, full))
    np.testing.assert_allclose(
        np.array(ours, float), np.array(theirs, float), atol=2 * MARGINS[BF16]
    )  # goldens keep the margin


def test_a_score_that_is_not_the_references_keeps_it_from_serving(altered: Path, backend: str) -> None:
    def shift(gate: Any) -> None:
        gate["golden_scores"] = [score + 2 * gate["margin"] for score in gate["golden_scores"]]

    set_gate(altered, ROLES[backend], shift)
    with pytest.raises(ParityError, match=r"the gate scores goldens/golden-1.npz .* further apart than 0.5"):
        Segmenter.open(altered, backend, gate=True)
    Segmenter.open(altered, "openvino", gate=True).close()


def test_what_the_export_refused_is_refused_with_its_reason(altered: Path, backend: str) -> None:
    why = "the gate scores a frame 9.0 from the reference, further apart than 0.5"
    set_gate(altered, ROLES[backend], lambda gate: gate.update(largest_score_error=9.0, refusal=why))
    with pytest.raises(BundleError, match=f"{why}; open it without gate, or with openvino or onnxruntime"):
        Segmenter.open(altered, backend, gate=True)
    Segmenter.open(altered, backend).close()


def test_fastest_passes_over_what_the_export_refused_with_its_reason(altered: Path) -> None:
    why = "the gate scores a frame 9.0 from the reference, further apart than 0.5"
    for role in ROLES.values():
        set_gate(altered, role, lambda gate: gate.update(largest_score_error=9.0, refusal=why))
    found = choose(Bundle.open(altered), "fastest", gate=True, max_dice_loss=0.1)
    found.backend.close()
    assert found.artefact == "gate"
    assert f"openvino-bf16, openvino-int8 ({why})" in found.reason


def test_a_gate_over_its_margin_without_a_refusal_is_no_gate(altered: Path) -> None:
    set_gate(altered, GATE_INT8, lambda gate: gate.update(largest_score_error=9.0))
    with pytest.raises(BundleError, match=r"gate-int8 artefact: .*largest_score_error 9.0 is over the margin 0.5"):
        Bundle.open(altered)


def test_a_cut_that_the_network_does_not_have_is_a_backend_error(altered: Path, backend: str) -> None:
    set_gate(altered, ROLES[backend], lambda gate: gate.update(cut=["nowhere", *gate["cut"][1:]]))
    with pytest.raises(BackendError, match="the network to be cut holds no value 'nowhere'"):
        Segmenter.open(altered, backend, gate=True)


def test_without_bfloat16_in_the_processor_its_gate_is_no_choice(exported: Path) -> None:
    found = choose(
        Bundle.open(exported),
        "fastest",
        Machine(processor=Processor("Old CPU", 2, bfloat16=False)),
        gate=True,
        max_dice_loss=0.1,
    )
    found.backend.close()
    assert "openvino-bf16 (openvino-bf16 needs a processor with AVX512_BF16 or AMX" in found.reason


def test_a_score_over_the_margin_becomes_a_refusal_in_a_sentence(gated_bundle: Path) -> None:
    fitted = load_checkpoint(gated_bundle.parent / "gated.safetensors").gate
    assert fitted is not None
    frames, answer = NamedFrames(None, (64, 64)), np.zeros((64, 64))
    run = ParityRun(figures={"whole": [frame_parity(frame, answer, answer, 0.5) for frame in frames]})
    found = scored_gate(fitted, lambda _: -9.0, lambda _: -8.0, frames, run, margin=0.5, words="gate in INT8")
    assert found.refusal.startswith("the gate in INT8 scores phantom")
    assert found.refusal.endswith("1.000000 from the reference, further apart than 0.5")
    kept = scored_gate(fitted, lambda _: -9.0, lambda _: -8.6, frames, run, margin=0.5)
    assert (kept.refusal, kept.largest_score_error) == ("", pytest.approx(0.4))


def test_the_gate_of_each_precision_is_read_by_one_model(exported: Path) -> None:
    manifest = Bundle.open(exported).manifest
    for role in ROLES.values():
        (gate,) = details_of(manifest, role, Gate)
        assert len(gate.cut) == 5
