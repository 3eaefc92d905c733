"""`breastseg train` and `breastseg evaluate` from their arguments to their exit codes."""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from breastseg_deploy.cli.command import Command, run_command
from breastseg_export import evaluate
from breastseg_train.network.architecture import Architecture
from breastseg_train.network.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from breastseg_train.network.model import SegmentationModel
from breastseg_train.run import compare_command as compare_runs_command
from breastseg_train.run.command import train_command
from breastseg_train.run.configuration import Configuration

SMALL = ("efficientnet-b0", (16, 16, 16, 16, 16))
TINY = Configuration("tiny", *SMALL, crop_px=64, batch_size=2, epochs=9, precision="32-true", workers=0)
TRAIN = train_command({"tiny": TINY})


def run(chosen: Command, *arguments: object) -> int:
    parser = argparse.ArgumentParser()
    chosen.add_arguments(parser)
    return run_command(chosen, parser.parse_args([str(argument) for argument in arguments]))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    save_checkpoint(Checkpoint(SegmentationModel(Architecture(*SMALL))), path)
    return path


def test_train_prints_one_json_object_and_warns_of_random_weights(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    code = run(
        TRAIN,
        "--data",
        data_root,
        "--output",
        output,
        "--preset",
        "tiny",
        "--epochs",
        1,
        "--seed",
        3,
        "--json",
    )
    printed = capsys.readouterr()
    assert code == 0
    assert json.loads(printed.out)["epochs"] == 1
    assert "starts from random weights" in printed.err
    description = json.loads((output / "run.json").read_text())
    assert (description["configuration"]["epochs"], description["configuration"]["seed"]) == (1, 3)


def test_a_run_starts_from_a_checkpoint_and_its_own_say_which(
    data_root: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    still = train_command({"tiny": replace(TINY, lr_max=1e-9, lr_min=1e-12)})
    arguments = ("--data", data_root, "--preset", "tiny", "--epochs", 1, "--start-from", checkpoint)
    assert run(still, *arguments, "--output", tmp_path / "run") == 0
    assert "random weights" not in capsys.readouterr().err
    begun, ended = load_checkpoint(checkpoint), load_checkpoint(tmp_path / "run" / "last.safetensors")
    assert ended.details["started_from"]["sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    for name, weight in begun.model.named_parameters():
        torch.testing.assert_close(ended.model.get_parameter(name), weight, rtol=0, atol=1e-6)


def test_a_checkpoint_and_weights_of_an_encoder_are_not_both_taken(
    data_root: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--data", data_root, "--preset", "tiny", "--start-from", checkpoint, "--encoder-weights", "imagenet")
    assert run(TRAIN, *arguments, "--output", tmp_path / "run") == 1
    assert "--start-from brings the encoder's weights" in capsys.readouterr().err


def test_fewer_epochs_than_the_presets_interval_are_validated_and_that_is_told(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rarely = train_command({"tiny": replace(TINY, epochs=12, validate_every_epochs=4)})
    output = tmp_path / "run"
    assert run(rarely, "--data", data_root, "--output", output, "--preset", "tiny", "--epochs", 2) == 0
    assert "tiny: 2 epochs are no multiple of 4, so it is validated every 2 epochs" in capsys.readouterr().err
    assert json.loads((output / "run.json").read_text())["configuration"]["validate_every_epochs"] == 2


def test_train_leaves_a_folder_in_use_alone(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "note.txt").write_text("mine")
    assert run(TRAIN, "--data", data_root, "--output", tmp_path / "run", "--preset", "tiny") == 1
    assert "is not empty" in capsys.readouterr().err


def test_train_makes_no_folder_for_a_data_set_with_problems(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--data", data_root, "--output", tmp_path / "run", "--preset", "tiny", "--train-on", "train", "gone")
    assert run(TRAIN, *arguments) == 1
    assert "2 problem(s)" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_train_names_the_presets_when_it_does_not_know_one(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(TRAIN, "--data", data_root, "--output", tmp_path / "run", "--preset", "huge") == 1
    assert "choose one of" in capsys.readouterr().err


def test_evaluate_prints_figures_with_cells_apart_and_named_frames_apart(
    data_root: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(evaluate.COMMAND, checkpoint, "--data", data_root, "--apart", "test-0*", "--json")
    result = json.loads(capsys.readouterr().out)
    assert code == 0
    assert (result["frames"], result["with_cells"]["frames"], result["empty"]["frames"]) == (3, 2, 1)
    assert result["apart"]["test-0*"]["frames"] == 1


def test_evaluate_draws_the_panel_and_prints_a_table(
    data_root: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    panel = tmp_path / "panel.png"
    assert run(evaluate.COMMAND, checkpoint, "--data", data_root, "--panel", panel, "--tta") == 0
    assert panel.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.startswith("all frames: 3 frames, 2 with cells")


def test_evaluate_of_a_missing_checkpoint_is_one_line_and_exit_code_1(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(evaluate.COMMAND, tmp_path / "gone.safetensors", "--data", data_root) == 1
    assert capsys.readouterr().err.startswith("error: no checkpoint")


def test_compare_runs_tells_a_collapse_and_draws_both_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, scores in {"steady": (0.5, 0.7, 0.9), "collapsed": (0.6, 0.92, 0.14)}.items():
        (tmp_path / name).mkdir()
        rows = [f"{epoch},{score},{int(score < 0.2)}" for epoch, score in enumerate(scores, 1)]
        (tmp_path / name / "metrics.csv").write_text("\n".join(["epoch,val_dice,outlier", *rows]))
    picture = tmp_path / "comparison.png"
    code = run(compare_runs_command.COMMAND, tmp_path / "steady", tmp_path / "collapsed", "--output", picture, "--json")
    table = json.loads(capsys.readouterr().out)["runs"]
    assert code == 0
    assert table[str(tmp_path / "steady")] == {"best": 0.9, "lowest_after_best": 0.9, "outliers": 0}
    assert table[str(tmp_path / "collapsed")] == {"best": 0.92, "lowest_after_best": 0.14, "outliers": 1}
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("content", [None, "epoch,val_dice,outlier\n", "epoch,val_dice\nx,y\n"])
def test_compare_runs_refuses_a_folder_without_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    if content is not None:
        (tmp_path / "metrics.csv").write_text(content)
    assert run(compare_runs_command.COMMAND, tmp_path, "--output", tmp_path / "comparison.png") == 1
    assert "train" in capsys.readouterr().err
    assert not (tmp_path / "comparison.png").exists()
