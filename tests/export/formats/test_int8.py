"""The INT8 artefact of a bundle: what it may cost, and that nobody gets it unasked."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import onnx
import pytest
from written_phantoms import SIZE, write_phantoms

from breastseg_deploy import BackendError, BundleError, ParityError, Segmenter
from breastseg_deploy.artefacts import Int8Precision, details_of
from breastseg_deploy.backends.select import choose
from breastseg_deploy.bundle import (
    FP16,
    INT8,
    INT8_WEIGHTS,
    MANIFEST,
    MODEL,
    PORTABLE,
    Bundle,
    file_entry,
    golden_bytes,
)
from breastseg_deploy.cli.main import main
from breastseg_deploy.metrics import dice
from breastseg_deploy.phantom import phantom_frame
from breastseg_deploy.selftest import GOLDEN_SLACK


@pytest.fixture
def altered(exported: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(copytree(exported, tmp_path / "bundle"))


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BREASTSEG_CACHE", str(tmp_path / "cache"))


def edit_manifest(bundle: Path, edit: Callable[[Any], object]) -> None:
    raw = json.loads((bundle / MANIFEST).read_text())
    edit(raw)
    (bundle / MANIFEST).write_text(json.dumps(raw))


def eight_bits(bundle: Path) -> Int8Precision:
    (found,) = details_of(Bundle.open(bundle).manifest, INT8, Int8Precision)
    return found


def golden_dice(bundle: Path) -> list[float]:
    artefact = Bundle.open(bundle).manifest.artefact(INT8)
    assert artefact is not None
    return list(artefact.golden_dice)


def change_a_golden(bundle: Path, share: float) -> None:
    """Take that share of the cells out of the first golden's mask, so that a right mask is further from it; its figure
    at the export goes with it."""
    first = Bundle.open(bundle).goldens()[0]
    mask, probability = first.mask.copy(), first.probability.copy()
    removed = np.flatnonzero(mask)[: int(share * mask.sum())]
    mask.flat[removed], probability.flat[removed] = 0, 0
    (bundle / first.name).write_bytes(golden_bytes(replace(first, mask=mask, probability=probability)))
    entry = file_entry(bundle / first.name).model_dump()
    edit_manifest(bundle, lambda raw: raw["files"].update({first.name: entry}))
    edit_manifest(bundle, lambda raw: int8_of(raw).update(golden_dice=[0.0] * len(raw["goldens"])))


def self_test_dice(bundle: Path) -> list[float]:
    with Segmenter.open(bundle, "openvino-int8") as segmenter:
        return [result.dice for result in segmenter.self_test()]


def int8_of(raw: Any) -> Any:
    return next(one for one in raw["artefacts"] if one["role"] == INT8)


def test_the_manifest_names_each_convolution_of_encoder_and_decoder_that_is_quantised_and_all_others(
    exported: Path,
) -> None:
    found = eight_bits(exported)
    assert len(found.quantised) == 73
    assert {name.split(".")[1] for name in found.quantised} == {"encoder", "decoder"}
    assert not any("conv_dw" in name for name in found.quantised)
    graph = onnx.load(exported / MODEL).graph
    weights = {node.input[1] for node in graph.node if node.op_type == "Conv"}
    ours = {*found.quantised, *found.float32}
    assert weights - ours == {"preprocessing/edge.bank", "preprocessing/edge.weights"}
    assert ours < weights
    assert "SmoothQuant" in found.method
    assert found.calibration == "32 frames from files, 0 with ground truth"


def test_the_manifest_says_int8_and_the_command_prints_it_alone(made: tuple[Path, dict[str, Any]]) -> None:
    bundle, said = made
    manifest = Bundle.open(bundle).manifest
    assert (manifest.precision, manifest.artefact(FP16)) == ("int8", None)
    assert said["manifest"] == json.loads((bundle / MANIFEST).read_text())


def test_its_parity_has_limits_of_its_own_and_float32_is_held_to_its(exported: Path) -> None:
    parity = {one.role: one.parity[0] for one in Bundle.open(exported).manifest.artefacts}
    assert parity[INT8].limits.dice_change == 0.002
    assert (parity[INT8].limits.worst_dice, parity[PORTABLE].limits.worst_dice) == (0.97, 0.9999)
    assert parity[INT8].dice_change_with_cells is not None
    assert abs(parity[INT8].dice_change_with_cells) <= 0.002
    report = (exported / "report.html").read_text()
    assert "73 convolutions" in report
    assert "32 frames from files" in report


def test_inspect_says_how_it_was_quantised(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(exported)]) == 0
    shown = capsys.readouterr().out
    assert "73 convolutions, 63 left in float32; by name only" in shown
    assert "32 frames from files, 0 with ground truth" in shown


def test_by_name_it_serves_masks_near_those_of_float32(exported: Path) -> None:
    with Segmenter.open(exported, "openvino-int8") as eight, Segmenter.open(exported, "openvino") as full:
        assert (eight.artefact, eight.backend) == (INT8, "openvino-int8")
        came_out = [result.dice for result in eight.self_test()]
        frames = np.stack([phantom_frame(number, SIZE).frame for number in range(40, 46)])
        ours, theirs = eight.batch(frames), full.batch(frames)
    assert came_out == pytest.approx(golden_dice(exported), abs=1e-6)
    for one, other in zip(ours, theirs, strict=True):
        assert dice(one.mask, other.mask) >= 0.97
    errors = [np.abs(one.probability - other.probability).max() for one, other in zip(ours, theirs, strict=True)]
    assert max(errors) > 1e-3  # it is another network


def test_a_golden_that_was_better_at_the_export_does_not_pass(altered: Path) -> None:
    """It lies over the limit of 0.97; another processor's sums must not cost what nobody measured."""
    Segmenter.open(altered, "openvino-int8").close()  # a verdict is kept
    change_a_golden(altered, share=0.03)
    figures = dict.fromkeys(Bundle.open(altered).manifest.goldens, 1.0)
    assert 0.97 < min(self_test_dice(altered)) < 1 - GOLDEN_SLACK
    edit_manifest(altered, lambda raw: int8_of(raw).update(golden_dice=list(figures.values())))
    with pytest.raises(ParityError, match=r"golden-\d\.npz has Dice .* by OpenVINO .* take another backend"):
        Segmenter.open(altered, "openvino-int8")


def test_a_golden_a_little_under_its_figure_at_the_export_passes(altered: Path) -> None:
    better = [min(1.0, figure + 0.004) for figure in golden_dice(altered)]
    assert better != golden_dice(altered)
    edit_manifest(altered, lambda raw: int8_of(raw).update(golden_dice=better))
    Segmenter.open(altered, "openvino-int8").close()


def test_auto_never_takes_it(exported: Path) -> None:
    found = choose(Bundle.open(exported))
    found.backend.close()
    assert found.name in ("openvino", "onnxruntime")
    assert "openvino-int8" not in found.reason


def test_a_bundle_without_it_says_so(gated_bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"holds no int8/network\.xml: it was exported with --precision fp32"):
        Segmenter.open(gated_bundle, "openvino-int8")


def test_other_weights_do_not_pass_the_goldens(altered: Path) -> None:
    Segmenter.open(altered, "openvino-int8").close()  # a verdict is kept
    weights = np.frombuffer((altered / INT8_WEIGHTS).read_bytes(), np.uint8).copy()
    weights[::4] ^= 0x15
    (altered / INT8_WEIGHTS).write_bytes(weights.tobytes())
    entry = file_entry(altered / INT8_WEIGHTS).model_dump()
    edit_manifest(altered, lambda raw: raw["files"].update({INT8_WEIGHTS: entry}))
    with pytest.raises((ParityError, BackendError)):
        Segmenter.open(altered, "openvino-int8")


def test_manifest_and_files_agree_on_it(altered: Path) -> None:
    kept = (altered / MANIFEST).read_text()
    for change, words in (
        (lambda raw: raw["files"].pop(INT8_WEIGHTS), f"files lists no {INT8_WEIGHTS}"),
        (lambda raw: raw["artefacts"].remove(int8_of(raw)), r"precision int8 and the artefacts \[\] must agree"),
        (lambda raw: raw.update(precision="fp32"), "must agree"),
        (lambda raw: int8_of(raw).update(golden_dice=[1.0]), "one figure for each golden"),
        (lambda raw: int8_of(raw)["details"].update(quantised=[]), "at least 1 item"),
    ):
        edit_manifest(altered, change)
        with pytest.raises(BundleError, match=words):
            Bundle.open(altered)
        (altered / MANIFEST).write_text(kept)


def test_verify_compares_it_with_float32_on_the_users_frames(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = write_phantoms(tmp_path / "frames", 40, 3, masks=True)
    assert main(["verify", str(exported), "--backend", "openvino-int8", "--frames", str(frames), "--json"]) == 0
    printed = capsys.readouterr()
    said = json.loads(printed.out)["frames"]
    assert said["against"] == "model.onnx in ONNX Runtime on the CPU"
    assert 0.97 <= said["agreement_worst_dice"] <= 1
    phantoms = [phantom_frame(number, SIZE) for number in range(40, 43)]
    with Segmenter.open(exported, "openvino-int8") as eight, Segmenter.open(exported, "onnxruntime") as full:
        ours, theirs = ([dice(segment(one.frame).mask, one.mask) for one in phantoms] for segment in (eight, full))
    assert said["truth_dice_change_all"] == pytest.approx(np.mean(ours) - np.mean(theirs))
    assert said["change_judged"] is False
    assert "that change was not held to its limit: it takes at least 8 frames" in printed.err
