"""A list of presets, trained and measured into one table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from small_unet import UNET

from breastseg_deploy.errors import ArgumentError, OutputError
from breastseg_train.data.dataset import read_data_set, read_frame
from breastseg_train.evaluate.evaluation import evaluate, summary
from breastseg_train.evaluate.otsu import OTSU_DATA_SET, OTSU_FRAME
from breastseg_train.evaluate.prediction import checkpoint_predictor
from breastseg_train.network.checkpoint import load_checkpoint
from breastseg_train.paper.ablation import CURVES, EVALUATION, TABLE, TABLE_JSON, ablate, table
from breastseg_train.paper.crf import mean_field
from breastseg_train.run import experiment
from breastseg_train.run.experiment import experiment_predictor
from breastseg_train.run.run_folder import BEST

WITH_CRF = replace(UNET, preset="unet-crf", crf=True, patch_sampling=True)


def test_each_preset_has_a_row_measured_on_the_test_split(data_root: Path, tmp_path: Path) -> None:
    output = tmp_path / "table"
    rows = ablate(data_root, output, [UNET, WITH_CRF])
    assert [row["preset"] for row in rows] == ["unet", "unet-crf", OTSU_FRAME, OTSU_DATA_SET]
    assert rows[0]["paper_dice"] == 0.782
    assert rows[1]["paper_dice"] is None
    assert json.loads((output / TABLE_JSON).read_text()) == rows
    text = (output / TABLE).read_text().splitlines()
    assert len(text) == 6
    assert text[2].startswith("| `unet` |")
    assert (output / CURVES).read_bytes().startswith(b"\x89PNG")
    checkpoint = load_checkpoint(output / "unet" / BEST)
    samples = read_data_set(data_root, ["test"]).splits["test"]
    figures = evaluate(checkpoint_predictor(checkpoint), samples, checkpoint.threshold)
    assert rows[0]["evaluation"] == summary(figures)


def test_otsu_stands_in_the_table_as_what_was_not_trained(data_root: Path, tmp_path: Path) -> None:
    ablate(data_root, tmp_path / "table", [UNET])
    line = (tmp_path / "table" / TABLE).read_text().splitlines()[3]
    assert line.startswith(f"| {OTSU_FRAME} | 0.")
    assert line.endswith("| - | - | - | - |")


def test_a_run_that_asked_for_the_random_field_is_measured_with_it(data_root: Path, tmp_path: Path) -> None:
    ablate(data_root, tmp_path / "table", [WITH_CRF])
    checkpoint = load_checkpoint(tmp_path / "table" / "unet-crf" / BEST)
    frame = read_frame(read_data_set(data_root, ["test"]).splits["test"][0].image)
    plain = checkpoint_predictor(checkpoint)(frame[None])[0]
    assert (experiment_predictor(checkpoint)(frame[None])[0] == mean_field(frame, plain)).all()


def test_a_run_interrupted_while_it_was_measured_is_measured_again(data_root: Path, tmp_path: Path) -> None:
    before, *_ = ablate(data_root, tmp_path / "table", [UNET])
    (tmp_path / "table" / "unet" / EVALUATION).unlink()
    again, *_ = ablate(data_root, tmp_path / "table", [UNET])
    assert again["evaluation"] == before["evaluation"]


def test_finished_runs_stay_and_the_rest_is_added(data_root: Path, tmp_path: Path) -> None:
    output = tmp_path / "table"
    first, *_ = ablate(data_root, output, [UNET])
    written = (output / "unet" / BEST).stat().st_mtime_ns
    told: list[str] = []
    rows = ablate(data_root, output, [UNET, WITH_CRF], say=told.append)
    assert told == ["training unet-crf", "measuring unet-crf"]
    assert (output / "unet" / BEST).stat().st_mtime_ns == written
    assert rows[0] == first


@pytest.mark.parametrize(
    ("change", "reason"), [({"epochs": 2}, "epochs"), ({"loss": "hybrid"}, "loss"), ({"seed": 1}, "seed")]
)
def test_a_finished_run_of_another_kind_is_never_shown_as_this_one(
    data_root: Path, tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    ablate(data_root, tmp_path / "table", [UNET])
    with pytest.raises(ArgumentError, match=rf"finished run of another kind \(.*{reason}"):
        ablate(data_root, tmp_path / "table", [replace(UNET, **change)])


def test_a_finished_run_measured_on_other_splits_is_refused(data_root: Path, tmp_path: Path) -> None:
    ablate(data_root, tmp_path / "table", [UNET])
    with pytest.raises(ArgumentError, match="test splits"):
        ablate(data_root, tmp_path / "table", [UNET], test_on=["val"])


def test_a_damaged_evaluation_is_named(data_root: Path, tmp_path: Path) -> None:
    ablate(data_root, tmp_path / "table", [UNET])
    (tmp_path / "table" / "unet" / EVALUATION).write_text("{}")
    with pytest.raises(OutputError, match=r"evaluation.json is damaged"):
        ablate(data_root, tmp_path / "table", [UNET])


def test_a_preset_stands_in_the_table_once(data_root: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="once, got unet, unet"):
        ablate(data_root, tmp_path / "table", [UNET, UNET])


def test_a_test_split_without_cells_leaves_dashes() -> None:
    row = {
        "preset": "x",
        "parameters": 1_000_000,
        "epochs": 1,
        "minutes": 2.4,
        "paper_dice": None,
        "evaluation": {
            "with_cells": {"dice": None, "surface_dice": None},
            "all": {"dice": {"mean": 1.0}},
            "empty": {"frames": 3, "false_positive_rate": 1 / 3},
            "small_structures": {"found": 0, "count": 0},
        },
    }
    assert table([row]).splitlines()[2] == "| `x` | - | 1.000 | 1 of 3 | 0 of 0 | - | - | - | 1.0 M | 1 | 2 | - |"


def test_rounds_of_active_learning_neither_resume_nor_stop_by_the_clock(data_root: Path, tmp_path: Path) -> None:
    rounds = replace(UNET, dropout=0.1, active_learning_rounds=1, epochs=2)
    for extra in ({"resume": True}, {"max_minutes": 1.0}, {"encoder_weights": "imagenet"}):
        with pytest.raises(ArgumentError, match="rounds of active learning start from their own weights"):
            experiment.run_experiment(data_root, tmp_path / "run", rounds, **extra)
