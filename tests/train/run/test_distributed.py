"""Two processes on the CPU train like one on the same global batch."""

from __future__ import annotations

import csv
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import lightning
import pytest
import torch
from discs import disc_frame, write_frame

from breastseg_deploy.errors import ArgumentError, DataError, MachineError
from breastseg_train.network.checkpoint import load_checkpoint
from breastseg_train.run.configuration import Configuration
from breastseg_train.run.run_folder import FIGURES, LAST, RUN
from breastseg_train.run.training import train

# In float64, because the first steps of AdamW turn the rounding of another order of summation into whole steps wherever
# a gradient is nearly 0. MobileNetV2, because it draws no dropout: each process draws its own.
TINY = Configuration(
    "tiny",
    encoder="mobilenet_v2",
    decoder_channels=(16, 16, 16, 16, 16),
    crop_px=64,
    batch_size=4,
    accumulation=2,
    epochs=2,
    lr_max=1e-3,
    lr_min=1e-6,
    precision="64-true",
    workers=0,
)
SAME = 5e-5
"""Largest difference of a weight or figure; 4e-6 was measured; the loss is float32 in any precision."""


@pytest.fixture(scope="module", autouse=True)
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 frames to train on, of very different cell shares; 5 to validate on, which two processes cannot halve."""
    root = tmp_path_factory.mktemp("data")
    for split, count in {"train": 8, "val": 5}.items():
        for i in range(count):
            write_frame(root, split, f"{split}-{i}", *disc_frame(100 * count + i, cells=(0, 1, 9)[i % 3]))
    return root


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process."""
    run = tmp_path_factory.mktemp("alone")
    train(data, run, TINY)
    return run


def rows(run: Path) -> list[dict[str, float]]:
    with (run / FIGURES).open() as file:
        return [{k: float(v) for k, v in row.items() if k != "minutes"} for row in csv.DictReader(file)]


def largest_difference(first: Path, second: Path) -> float:
    one, other = (load_checkpoint(run / LAST).model.state_dict() for run in (first, second))
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def test_two_processes_reach_the_weights_and_figures_of_one(data: Path, alone: Path, tmp_path: Path) -> None:
    figures = train(data, tmp_path / "run", TINY, devices=2)
    assert figures["steps"] == 2
    assert largest_difference(alone, tmp_path / "run") < SAME
    assert rows(tmp_path / "run") == [pytest.approx(row, abs=SAME) for row in rows(alone)]
    assert {path.name for path in (tmp_path / "run").iterdir()} == {path.name for path in alone.iterdir()}


class CtrlCInSecondEpoch(lightning.Callback):
    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt


def test_two_processes_go_on_with_a_run_where_one_was_interrupted(data: Path, alone: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path, TINY, callbacks=[CtrlCInSecondEpoch()])
    train(data, tmp_path, TINY, devices=2, resume=True)
    assert largest_difference(alone, tmp_path) < SAME
    assert rows(tmp_path) == [pytest.approx(row, abs=SAME) for row in rows(alone)]


def test_a_frame_damaged_while_training_ends_all_processes_with_its_sentence(data: Path, tmp_path: Path) -> None:
    root, run = tmp_path / "data", tmp_path / "run"
    for path in data.rglob("*.png"):
        copy = root / path.relative_to(data)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())

    def damage_the_second_process_s_frame() -> None:
        while not (run / RUN).exists():  # written after the check of the data, before the processes start
            time.sleep(0.01)
        (root / "val" / "images" / "val-1.png").write_bytes(b"")

    threading.Thread(target=damage_the_second_process_s_frame).start()
    with pytest.raises(DataError, match=r"val-1\.png"):
        train(root, run, TINY, devices=2)


def test_a_batch_that_does_not_divide_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="the batch of 4 cannot be shared out among 3 processes"):
        train(data, tmp_path / "run", TINY, devices=3)
    with pytest.raises(ArgumentError, match="among 0 processes"):
        train(data, tmp_path / "run", TINY, devices=0)
    assert not (tmp_path / "run").exists()


def test_a_process_without_a_frame_to_validate_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="5 validation frames are too few for 8 processes"):
        train(data, tmp_path / "run", replace(TINY, batch_size=8), devices=8)


def test_more_devices_than_gpus_are_refused(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(MachineError, match=r"2 devices were asked for and this machine has 1 GPU"):
        train(data, tmp_path / "run", TINY, devices=2)
