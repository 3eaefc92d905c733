"""What a training says of itself where there is no terminal."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable

import lightning
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from breastseg_deploy.progress import Progress
from breastseg_train.run.lightning_border import TrainingProgress, quiet_lightning

BATCHES, EPOCHS = 3, 2


class OneWeight(lightning.LightningModule):
    """The smallest thing that trains; `at` sees each batch before it counts."""

    def __init__(self, at: Callable[[int], None] = lambda _: None) -> None:
        super().__init__()
        self.weight, self.at, self.seen = nn.Parameter(torch.zeros(1)), at, 0

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        self.seen += 1
        self.at(self.seen)
        return (batch * self.weight).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Desk:
    """A clock that the test moves, a log, and the progress that uses both."""

    def __init__(self) -> None:
        self.log, self.minutes = io.StringIO(), 0
        self.progress: Progress | None = None

    def __call__(self, what: str, total: int, units: str) -> Progress:
        self.progress = Progress(what, total, units, stream=self.log, clock=self.clock, first_s=threading.TIMEOUT_MAX)
        return self.progress

    def clock(self) -> float:
        return 60.0 * self.minutes


def fit(module: lightning.LightningModule, desk: Desk) -> None:
    with quiet_lightning():
        trainer = lightning.Trainer(
            max_epochs=EPOCHS,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            callbacks=[TrainingProgress(desk)],
        )
        trainer.fit(module, DataLoader(torch.ones(BATCHES, 1)))  # type: ignore[arg-type]


def test_a_training_says_how_many_batches_of_all_epochs_are_done() -> None:
    desk = Desk()

    def take_a_minute(batch: int) -> None:
        desk.minutes += 1
        if batch == 5:
            assert desk.progress is not None
            desk.progress.say()

    fit(OneWeight(take_a_minute), desk)
    assert desk.log.getvalue().splitlines() == [
        "training: 4 of 6 batches, 5 min 0 s so far, about 1 min 0 s left",
        "training: 6 of 6 batches in 6 min 0 s",
    ]


def test_a_training_that_fails_leaves_the_last_word_to_its_error() -> None:
    desk, threads = Desk(), threading.active_count()

    def fail(batch: int) -> None:
        raise RuntimeError(f"batch {batch}")

    with pytest.raises(RuntimeError, match="batch 1"):
        fit(OneWeight(fail), desk)
    assert desk.log.getvalue() == ""
    assert threading.active_count() == threads
