"""The training of the model as a LightningModule: what happens in a step, how it is optimised, how it is validated."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from breastseg_deploy.errors import TrainingError
from breastseg_train.network.model import SegmentationModel
from breastseg_train.paper.loss_variants import LOSSES
from breastseg_train.run.configuration import Configuration
from breastseg_train.run.global_batch import gathered, gathered_rows
from breastseg_train.run.processes import place
from breastseg_train.run.validation import pixel_counts, validation_figures

THRESHOLD = 0.5
"""Probability from which a pixel is cell, in validation and in the checkpoints of a run."""


class SegmentationTraining(lightning.LightningModule):
    """Trains `model` as the configuration says; batches are (tensor, truth) of `frames`."""

    def __init__(self, model: SegmentationModel, configuration: Configuration) -> None:
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)
        self.configuration = configuration
        self._loss = LOSSES[configuration.loss]
        self._frames: list[Tensor] = []
        if configuration.batch_norm_momentum is not None:
            for layer in model.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.momentum = configuration.batch_norm_momentum

    def forward(self, tensor: Tensor) -> Tensor:
        """Logits (N, 1, H, W) of a (N, 4, H, W) tensor."""
        logits: Tensor = self.model(tensor.contiguous(memory_format=torch.channels_last))
        return logits

    def on_train_epoch_start(self) -> None:
        """Start the epoch's dropout from seed and epoch, so that a resumed run repeats an uninterrupted one.

        Each process draws its own.
        """
        torch.manual_seed(self.configuration.seed + 1_000_003 * self.current_epoch + 7_919 * place().rank)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """The loss of one batch; over several processes, of the batch of all of them, the same on each.

        Raises:
            TrainingError: it is not finite.
        """
        tensor, truth = batch
        loss = self._loss(gathered(self(tensor).float()), gathered(truth))
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss.item()} in epoch {self.current_epoch + 1}; the last checkpoint stays usable: "
                "train again with a lower lr_max, or in 32-true precision"
            )
        self.log("train_loss", loss.detach(), on_step=False, on_epoch=True, batch_size=len(truth))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        """Count the right and wrong pixels of whole frames, and note their loss."""
        tensor, truth = batch
        logits = self(tensor)
        counts = pixel_counts(torch.sigmoid(logits.float()) >= THRESHOLD, truth)
        loss = self._loss(logits, truth).double().expand(len(truth), 1)
        self._frames.append(torch.cat([counts, loss], dim=1))

    def on_validation_epoch_end(self) -> None:
        """Log the figures over all frames of all processes as `val_...`, the same on each process."""
        rows = gathered_rows(torch.cat(self._frames))
        self._frames.clear()
        figures = {"loss": float(rows[:, 3].mean()), **validation_figures(rows[:, :3])}
        self.log_dict({f"val_{name}": value for name, value in figures.items()})

    def configure_optimizers(self) -> Any:
        """AdamW, under the one-cycle schedule where the run is stabilised."""
        c = self.configuration
        optimizer = AdamW(self.model.parameters(), lr=c.lr_max, weight_decay=c.weight_decay)
        if not c.stabilised:
            return optimizer
        schedule = one_cycle(optimizer, c, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def one_cycle(optimizer: Optimizer, configuration: Configuration, steps: int) -> OneCycleLR:
    """The learning rate from lr_min to lr_max over the warm-up, then back to lr_min along a cosine.

    Source: the paper, eq. (5) and section III F; that the warm-up starts at lr_min is ours.
    """
    return OneCycleLR(
        optimizer,
        max_lr=configuration.lr_max,
        total_steps=steps,
        pct_start=configuration.warmup_share,
        div_factor=configuration.lr_max / configuration.lr_min,
        final_div_factor=1.0,
        cycle_momentum=False,
    )
