"""The empty-frame gate: what it promises, what it is fitted on, and when it refuses to be fitted at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from discs import SIDE_PX, disc_frame, write_frame
from safetensors import safe_open
from safetensors.torch import save_file

from breastseg_deploy.cli.main import main
from breastseg_deploy.errors import ArgumentError, CheckpointError, DataError
from breastseg_deploy.preprocess.tensor import network_input
from breastseg_train.data.dataset import DataSet, read_data_set, read_frame
from breastseg_train.network.architecture import Architecture
from breastseg_train.network.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from breastseg_train.network.model import SegmentationModel
from breastseg_train.run.gate import FittedGate, conformal_threshold, fit_gate, pooled, rank

NARROW = Architecture("resnet18", (16,) * 5)


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    torch.manual_seed(0)
    return SegmentationModel(NARROW).eval()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Splits fit (12 frames), calibrate (27) and cells (3): every third frame is empty, but for the last split."""
    place = tmp_path_factory.mktemp("gate")
    for first_seed, (split, count) in enumerate({"fit": 12, "calibrate": 27, "cells": 3}.items()):
        for number in range(count):
            cells = 0 if number % 3 == 2 and split != "cells" else 4
            frame, mask = disc_frame(1000 * first_seed + number, cells)
            write_frame(place, split, f"{split}-{number}", frame, mask)
    return place


@pytest.fixture(scope="module")
def data(root: Path) -> DataSet:
    return read_data_set(root, ["fit", "calibrate", "cells"])


@pytest.fixture(scope="module")
def fitted(model: SegmentationModel, data: DataSet) -> FittedGate:
    return fit_gate(model, data, ["fit"], ["calibrate"], recall=0.9)


@pytest.mark.parametrize(
    ("frames", "recall", "expected"), [(199, 0.995, 1), (398, 0.995, 1), (399, 0.995, 2), (18, 0.9, 1), (19, 0.9, 2)]
)
def test_the_threshold_is_the_highest_rank_that_the_recall_allows(frames: int, recall: float, expected: int) -> None:
    assert rank(frames, recall) == expected


@pytest.mark.parametrize(("frames", "recall", "needed", "reachable"), [(198, 0.995, 199, 0.9949), (8, 0.9, 9, 0.8888)])
def test_too_few_frames_with_cells_are_refused_with_the_number_needed(
    frames: int, recall: float, needed: int, reachable: float
) -> None:
    with pytest.raises(DataError) as refusal:
        rank(frames, recall)
    assert f"needs at least {needed} frames with cells to calibrate on, got {frames}" in str(refusal.value)
    assert f"or ask for {reachable} at most" in str(refusal.value)
    assert rank(needed, recall) == rank(frames, reachable) == 1


def test_without_any_frame_with_cells_there_is_nothing_to_ask_for() -> None:
    with pytest.raises(DataError, match=r"got 0; give some$"):
        rank(0, 0.9)


@pytest.mark.parametrize("recall", [0.0, 1.0, 1.5])
def test_a_recall_outside_0_to_1_is_refused(recall: float) -> None:
    with pytest.raises(ArgumentError, match="a recall lies between 0 and 1"):
        rank(1000, recall)


def test_frames_with_cells_are_missed_as_seldom_as_promised() -> None:
    """New scores fall under the threshold as often as the bound says: 2 of 30 on average here."""
    draws = np.random.default_rng(0).normal(size=(20_000, 30))
    missed = [draw[-1] < conformal_threshold(draw[:-1], 0.93)[0] for draw in draws]
    assert conformal_threshold(draws[0, :-1], 0.93)[1] == pytest.approx(2 / 30)
    assert np.mean(missed) == pytest.approx(2 / 30, abs=0.006)


def test_frames_with_cells_and_empty_ones_are_told_apart(fitted: FittedGate) -> None:
    found = fitted.calibration
    assert (found.frames_with_cells, found.frames_empty, found.size_px) == (18, 9, (SIDE_PX, SIDE_PX))
    assert found.miss_bound == pytest.approx(1 / 19)
    assert found.empty_skipped == 1.0
    assert (found.fitted_on, found.calibrated_on) == ("fit", "calibrate")


def test_the_threshold_is_the_lowest_score_of_a_calibration_frame_with_cells(
    model: SegmentationModel, data: DataSet, fitted: FittedGate
) -> None:
    scores = []
    for sample in data.splits["calibrate"]:
        tensor = torch.from_numpy(network_input(read_frame(sample.image)[np.newaxis]))
        with torch.inference_mode():
            features = model.encode(tensor)
            score = float(fitted.gate(features)[0])
            assert score == pytest.approx(float(fitted.gate.score(pooled(features))), abs=1e-5)
        if int(sample.name.split("-")[1]) % 3 != 2:
            scores.append(score)
    assert fitted.calibration.threshold == pytest.approx(min(scores), abs=1e-4)


def test_the_model_stays_as_it_was(model: SegmentationModel, data: DataSet) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fit_gate(model, data, ["fit"], ["calibrate"], recall=0.9)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_what_cannot_be_promised_is_refused_before_the_long_work(model: SegmentationModel, data: DataSet) -> None:
    ticks: list[None] = []
    with pytest.raises(DataError, match=r"a recall of 0.995 needs at least 199 frames with cells"):
        fit_gate(model, data, ["fit"], ["calibrate"], on_frame=lambda: ticks.append(None))
    assert not ticks


def test_frames_that_fitted_the_gate_cannot_set_its_threshold(model: SegmentationModel, data: DataSet) -> None:
    with pytest.raises(ArgumentError, match="frames that trained nothing, got calibrate for both"):
        fit_gate(model, data, ["fit", "calibrate"], ["calibrate"], recall=0.9)


def test_a_frame_that_comes_twice_is_refused_however_it_is_named(
    model: SegmentationModel, root: Path, data: DataSet, tmp_path: Path
) -> None:
    for twice in (["calibrate", "calibrate"], ["calibrate", "cells"]):
        samples = {**data.splits, "cells": data.splits["calibrate"]}
        with pytest.raises(DataError, match="are the same frame and would count for two"):
            fit_gate(model, replace(data, splits=samples), ["fit"], twice, recall=0.9)
    frame, mask = disc_frame(7, 4)
    for name, drawn in (("one", mask), ("two", mask[::-1])):  # the same pixels, two masks
        write_frame(tmp_path, "calibrate", name, frame, drawn)
    other = read_data_set(tmp_path, ["calibrate"])
    merged = replace(data, splits={**data.splits, "calibrate": other.splits["calibrate"]})
    with pytest.raises(DataError, match="are the same frame and would count for two"):
        fit_gate(model, merged, ["fit"], ["calibrate"], recall=0.6)


def test_a_gate_is_fitted_on_both_kinds_of_frames(model: SegmentationModel, data: DataSet) -> None:
    with pytest.raises(DataError, match="on frames with cells and on empty ones; cells lack one kind"):
        fit_gate(model, data, ["cells"], ["calibrate"], recall=0.9)


def test_frames_of_several_sizes_are_refused(model: SegmentationModel, tmp_path: Path) -> None:
    for number, side in enumerate((SIDE_PX, SIDE_PX, 96)):
        pixels = np.full((side, side), number, np.uint8)
        write_frame(tmp_path, "fit" if number else "calibrate", f"frame-{number}", pixels, np.zeros_like(pixels))
    with pytest.raises(DataError, match=r"one frame size, got \[\(64, 64\), \(96, 96\)\]"):
        fit_gate(model, read_data_set(tmp_path, ["fit", "calibrate"]), ["fit"], ["calibrate"], recall=0.9)


def test_other_networks_than_the_papers_have_no_gate(data: DataSet) -> None:
    other = SegmentationModel(Architecture("resnet18", (16,) * 5, front="projection-without-edge")).eval()
    with pytest.raises(ArgumentError, match="a gate reads the encoder of the paper's network"):
        fit_gate(other, data, ["fit"], ["calibrate"], recall=0.9)


def test_a_gate_comes_back_with_its_checkpoint(model: SegmentationModel, fitted: FittedGate, tmp_path: Path) -> None:
    save_checkpoint(Checkpoint(model, 0.4, gate=fitted), tmp_path / "gated.safetensors")
    loaded = load_checkpoint(tmp_path / "gated.safetensors").gate
    assert loaded is not None
    assert loaded.calibration == fitted.calibration
    for name, tensor in fitted.gate.state_dict().items():
        assert torch.equal(tensor, loaded.gate.state_dict()[name])


def test_a_gate_goes_with_float16_weights_only_where_rounding_moves_nothing(
    model: SegmentationModel, fitted: FittedGate, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="moves the scores that its gate was calibrated on"):
        save_checkpoint(Checkpoint(model, gate=fitted), tmp_path / "half.safetensors", half=True)
    save_checkpoint(Checkpoint(model), tmp_path / "rounded.safetensors", half=True)
    rounded = load_checkpoint(tmp_path / "rounded.safetensors")
    save_checkpoint(replace(rounded, gate=fitted), tmp_path / "half.safetensors", half=True)
    kept = load_checkpoint(tmp_path / "half.safetensors").gate
    assert kept is not None
    assert torch.equal(kept.gate.score.weight, fitted.gate.score.weight)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("another encoder's", "the gate of .* does not fit its encoder"),
        ("nan", "the gate of .* holds NaN or infinite weights"),
        ("no header", "holds a gate that its header says nothing of"),
    ],
)
def test_a_damaged_gate_is_refused(
    model: SegmentationModel, fitted: FittedGate, tmp_path: Path, damage: str, sentence: str
) -> None:
    path = tmp_path / "gated.safetensors"
    save_checkpoint(Checkpoint(model, gate=fitted), path)
    with safe_open(path, framework="pt") as file:
        metadata, state = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if damage == "nan":
        state["gate.score.bias"] = torch.full_like(state["gate.score.bias"], torch.nan)
    elif damage == "no header":
        header = json.loads(metadata["breastseg"])
        del header["gate"]
        metadata["breastseg"] = json.dumps(header)
    else:
        state["gate.score.weight"] = state["gate.score.weight"][:, :-2].contiguous()
    save_file(state, path, metadata=metadata)
    with pytest.raises(CheckpointError, match=sentence):
        load_checkpoint(path)


def test_the_command_writes_a_new_checkpoint_and_says_what_it_promises(
    model: SegmentationModel, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, gated = tmp_path / "plain.safetensors", tmp_path / "gated.safetensors"
    save_checkpoint(Checkpoint(model, 0.3, {"data": "discs"}), plain)
    asked = ["fit-gate", str(plain), "--data", str(root), "--output", str(gated)]
    asked += ["--fit-on", "fit", "--calibrate-on", "calibrate", "--recall", "0.9"]
    assert main(asked) == 0
    said = capsys.readouterr().out
    assert "skipped with a probability of at most 0.0526 (asked: 0.1000; 18 frames with cells)" in said
    assert "share of the 9 empty ones skipped: 1.000" in said
    loaded = load_checkpoint(gated)
    assert (loaded.threshold, loaded.details, loaded.gate is not None) == (0.3, {"data": "discs"}, True)
    assert main(asked) == 1
    assert f"{gated} exists and may be in use" in capsys.readouterr().err
    assert (
        main(
            [
                *asked[:4],
                "--output",
                str(tmp_path / "more.safetensors"),
                "--fit-on",
                "fit",
                "--calibrate-on",
                "calibrate",
            ]
        )
        == 1
    )
    assert "needs at least 199 frames with cells" in capsys.readouterr().err
    assert not (tmp_path / "more.safetensors").exists()


def test_splits_that_trained_the_model_cannot_set_the_threshold(
    model: SegmentationModel, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    details = {"data": {"splits": {"train": {"calibrate": 27}, "validate": {"val": 3}}}}
    save_checkpoint(Checkpoint(model, details=details), tmp_path / "seen.safetensors")
    asked = ["fit-gate", str(tmp_path / "seen.safetensors"), "--data", str(root), "--recall", "0.9"]
    asked += ["--output", str(tmp_path / "gated.safetensors"), "--fit-on", "fit", "--calibrate-on", "calibrate"]
    assert main(asked) == 1
    assert "trained on splits named calibrate, and the threshold needs frames that trained nothing" in (
        capsys.readouterr().err
    )
    details["data"]["splits"] = {"train": {"fit": 12}, "validate": {"calibrate": 27}}
    save_checkpoint(Checkpoint(model, details=details), tmp_path / "seen.safetensors")
    assert main(asked) == 0
    assert "warning: splits named calibrate chose the checkpoint's epoch" in capsys.readouterr().err


def test_a_gate_without_empty_frames_to_try_it_on_says_so(model: SegmentationModel, data: DataSet) -> None:
    only_cells = replace(data, splits={**data.splits, "calibrate": data.splits["cells"]})
    found = fit_gate(model, only_cells, ["fit"], ["calibrate"], recall=0.7).calibration
    assert (found.frames_empty, found.empty_skipped, found.miss_bound) == (0, None, 0.25)
