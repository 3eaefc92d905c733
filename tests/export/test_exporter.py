"""The export as a whole: a bundle, or nothing."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from breastseg_deploy.artefacts import HalfPrecision, details_of
from breastseg_deploy.bundle import (
    BF16,
    FP16,
    MODEL,
    NETWORK_FP16,
    PORTABLE,
    REPORT,
    SBOM,
    SLIDE,
    SLIDE_GOLDEN,
    SLIDE_NETWORK,
    Bundle,
)
from breastseg_deploy.errors import ArgumentError, CheckpointError, OutputError, ParityError
from breastseg_deploy.manifest import Manifest
from breastseg_deploy.phantom import phantom_frame
from breastseg_deploy.segmenter import Segmenter
from breastseg_export.exporter import export_bundle
from breastseg_export.main import main
from breastseg_export.precision.islands import SEARCH_FRAMES
from breastseg_export.precision.sums import FLOAT16_SUMS
from breastseg_export.settings import ExportSettings
from breastseg_train.network.architecture import Architecture
from breastseg_train.network.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from breastseg_train.network.model import SegmentationModel

SIDE = 64
COMMAND = [sys.executable, "-m", "breastseg_export.main"]


@pytest.fixture(scope="module")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of random weights that exports in seconds."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "small.safetensors"
    save_checkpoint(Checkpoint(SegmentationModel(Architecture("resnet18", (16,) * 5))), path)
    return path


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_demo_bundle_holds_what_its_manifest_says_and_nothing_else(demo_bundle: Path) -> None:
    bundle = Bundle.open(demo_bundle)
    on_disk = {p.relative_to(demo_bundle).as_posix() for p in demo_bundle.rglob("*") if p.is_file()}
    assert on_disk == {*bundle.manifest.files, "manifest.json"}
    named = {MODEL, NETWORK_FP16, SLIDE_NETWORK, SLIDE_GOLDEN, REPORT, SBOM, *bundle.manifest.goldens}
    assert named == set(bundle.manifest.files)


def test_manifest_records_what_was_exported_and_how_well(demo_manifest: Manifest) -> None:
    assert (demo_manifest.encoder, demo_manifest.precision) == ("tu-tf_efficientnet_lite0", "fp16")
    assert demo_manifest.opset >= 18
    assert [(one.role, one.files) for one in demo_manifest.artefacts] == [
        (PORTABLE, (MODEL,)),
        (FP16, (NETWORK_FP16,)),
        (BF16, (MODEL,)),
        (SLIDE, (SLIDE_NETWORK, SLIDE_GOLDEN)),
    ]
    for artefact in demo_manifest.artefacts:
        assert artefact.parity
        assert all(one.worst_dice >= one.limits.worst_dice for one in artefact.parity)
        assert artefact.limits == artefact.parity[0].limits
    of_half = demo_manifest.artefacts[1].parity
    assert [(one.engine, one.frames) for one in of_half] == [("ONNX Runtime", 10), (FLOAT16_SUMS, SEARCH_FRAMES)]
    (half,) = details_of(demo_manifest, FP16, HalfPrecision)
    assert 0 < half.largest_activation < 65504
    assert half.fp32_islands


def test_the_manifest_says_what_goes_in_and_out(demo_manifest: Manifest) -> None:
    sides = {one.role: (one.inputs, one.outputs) for one in demo_manifest.artefacts}
    graphs = {PORTABLE: MODEL, FP16: NETWORK_FP16}
    for role in graphs:
        ((given,), (answer,)) = sides[role]
        assert (answer.axes, answer.dtype) == ("NCHW", "float32")
        assert given.axes == {PORTABLE: "NHWC", FP16: "NCHW"}[role]


def test_the_manifest_names_versions_and_frames(demo_manifest: Manifest) -> None:
    assert {"torch", "onnx", "onnxruntime", "breastseg-deploy"} <= demo_manifest.built_with.keys()
    assert "phantom" in demo_manifest.parity_frames


def test_bundle_gives_the_probabilities_of_the_checkpoint(demo_bundle: Path) -> None:
    from breastseg_export.runners import reference

    frame = phantom_frame(12, (128, 128)).frame
    expected = reference(load_checkpoint("demo").model)(np.repeat(frame[:, :, None], 3, 2))
    with Segmenter.open(demo_bundle) as segment:
        np.testing.assert_allclose(segment(frame).probability, expected, atol=2e-5)


def test_parity_failure_writes_no_bundle_keeps_the_worst_frames_and_exits_3(
    small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        str(small_checkpoint),
        "--output",
        str(tmp_path / "b"),
        "--size",
        str(SIDE),
        "--min-dice",
        "1",
        "--json",
    ]
    assert main(arguments) == 3
    output = capsys.readouterr()
    assert left_behind(tmp_path) == ["b.rejected"]
    assert (tmp_path / "b.rejected" / REPORT).is_file()
    assert len(list((tmp_path / "b.rejected").rglob("difference.png"))) == 15
    assert "no bundle was written, the worst frames are in" in output.err
    assert json.loads(output.out.splitlines()[-1])["kind"] == "ParityError"


def test_float32_export_holds_no_float16_network_and_force_replaces(small_checkpoint: Path, tmp_path: Path) -> None:
    place = tmp_path / "b"
    place.mkdir()
    (place / "manifest.json").write_text('{"schema_version": 1, "encoder": "resnet18", "files": {}}')
    (place / "old").write_text("old")
    export_bundle(ExportSettings(str(small_checkpoint), place, precision="fp32", size_px=SIDE, slide=False, force=True))
    manifest = Bundle.open(place).manifest
    assert NETWORK_FP16 not in manifest.files
    assert manifest.artefact(FP16) is None
    assert left_behind(tmp_path) == ["b"]
    assert not (place / "old").exists()


@pytest.mark.parametrize("manifest", [None, "mine", "[]", '{"name": "a browser extension", "manifest_version": 3}'])
def test_force_does_not_delete_a_folder_that_is_no_bundle(tmp_path: Path, manifest: str | None) -> None:
    place = tmp_path / "home"
    place.mkdir()
    (place / "thesis.tex").write_text("mine")
    if manifest is not None:
        (place / "manifest.json").write_text(manifest)
    with pytest.raises(OutputError, match=r"holds files but no manifest\.json of a bundle, so --force will not delete"):
        export_bundle(ExportSettings("no such checkpoint", place, force=True))
    assert (place / "thesis.tex").exists()


def test_a_precision_that_nobody_knows_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="precision is one of fp32, fp16, int8, got 'int4'"):
        export_bundle(ExportSettings("no checkpoint", tmp_path / "b", "int4"))  # type: ignore[arg-type]
    assert left_behind(tmp_path) == []


def test_an_output_that_is_not_empty_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="is not empty; empty it, choose another, or pass --force"):
        export_bundle(ExportSettings("no such checkpoint", tmp_path))
    assert left_behind(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.safetensors"], "no checkpoint missing.safetensors"),
        (["demo", "--size", "500"], "multiple of 32"),
        (["demo", "--frames", "nowhere"], "there is no nowhere"),
        (["demo", "--min-dice", "95"], "0 to 1, got 95"),
        (["missing.safetensors", "--size", "-32"], "multiple of 32 on both sides, got -32 x -32"),
    ],
)
def test_bad_input_is_one_line_and_exit_1(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--output", str(tmp_path / "b")]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert words in errors[0]
    assert left_behind(tmp_path) == []


def test_an_output_that_cannot_be_made_is_refused_before_tracing(
    small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")
    assert main([str(small_checkpoint), "--output", str(tmp_path / "file" / "b"), "--size", str(SIDE)]) == 1
    errors = capsys.readouterr().err
    assert "not a directory" in errors
    assert "tracing" not in errors


def test_a_pixel_size_that_is_none_is_refused_before_tracing(small_checkpoint: Path, tmp_path: Path) -> None:
    model = load_checkpoint(small_checkpoint).model
    save_checkpoint(Checkpoint(model, details={"pixel_size_um": -1}), tmp_path / "c.safetensors")
    told: list[str] = []
    with pytest.raises(CheckpointError, match="states a pixel_size_um of -1, expected micrometres over 0"):
        export_bundle(ExportSettings(str(tmp_path / "c.safetensors"), tmp_path / "b", size_px=SIDE), told.append)
    assert told == []


def test_a_layer_beyond_float32_is_refused(small_checkpoint: Path, tmp_path: Path) -> None:
    model = load_checkpoint(small_checkpoint).model
    with torch.no_grad():
        model.unet.segmentation_head[0].weight.fill_(3e38)  # logits of -inf or inf still give a probability
        model.unet.segmentation_head[0].bias.fill_(3e38)
    save_checkpoint(Checkpoint(model), tmp_path / "c.safetensors")
    with pytest.raises(ParityError, match=r"leaves the range of float32 already|itself gives NaN"):
        export_bundle(ExportSettings(str(tmp_path / "c.safetensors"), tmp_path / "b", size_px=SIDE))
    assert left_behind(tmp_path) == ["c.safetensors"]


@pytest.fixture(scope="module")
def refused_twice(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The message of an export that never finds a cell, and its folder, where an earlier one was refused already."""
    folder = tmp_path_factory.mktemp("refused")
    (folder / "b.rejected").mkdir()
    model = load_checkpoint(small_checkpoint).model
    with torch.no_grad():
        model.unet.segmentation_head[0].bias.fill_(-100.0)
    save_checkpoint(Checkpoint(model), folder / "never.safetensors")
    settings = ExportSettings(str(folder / "never.safetensors"), folder / "b", "fp32", size_px=SIDE, slide=False)
    with pytest.raises(ParityError) as refusal:
        export_bundle(settings)
    return str(refusal.value), folder


def test_an_export_without_a_single_cell_is_refused_because_agreement_proves_nothing(
    refused_twice: tuple[str, Path],
) -> None:
    message, folder = refused_twice
    assert "no frame holds a cell by the reference, so agreement proves nothing" in message
    assert not (folder / "b").exists()


def test_rejected_frames_never_overwrite_earlier_ones(refused_twice: tuple[str, Path]) -> None:
    message, folder = refused_twice
    assert message.endswith("b.rejected-2")
    assert (folder / "b.rejected-2" / REPORT).is_file()
    assert not any((folder / "b.rejected").iterdir())


def test_usage_errors_exit_2() -> None:
    with pytest.raises(SystemExit) as caught:
        main(["demo"])
    assert caught.value.code == 2


def test_a_full_disk_leaves_nothing(small_checkpoint: Path, tmp_path: Path) -> None:
    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    command = [
        *COMMAND,
        str(small_checkpoint),
        "--output",
        str(tmp_path / "b"),
        "--size",
        str(SIDE),
        "--precision",
        "fp32",
    ]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=small_files_only, check=False)
    assert done.returncode == 1, done.stderr
    assert "file too large; nothing was left half-written" in done.stderr.splitlines()[-1]
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "code", "words"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_ctrl_c_and_sigterm_leave_nothing_and_have_exit_codes_of_their_own(
    small_checkpoint: Path, tmp_path: Path, number: signal.Signals, code: int, words: str
) -> None:
    command = [*COMMAND, str(small_checkpoint), "--output", str(tmp_path / "b"), "--size", str(SIDE)]

    def listen() -> None:  # a job in the background inherits deaf ears
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=listen)
    assert process.stderr is not None
    assert any(line.startswith("tracing ") for line in process.stderr)  # the work has begun
    time.sleep(1)
    process.send_signal(number)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == code, rest
    assert f"{words}; nothing is half-written" in rest.splitlines()[-1]
    assert left_behind(tmp_path) == []
