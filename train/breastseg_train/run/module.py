"""The training of the model as a LightningModule: what happens in a step, how it is optimised, how it is validated."""

from __future__ import annotations

from typing import Any, cast

import lightning
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from breastseg_deploy.errors import TrainingError
from breastseg_train.network.model import SegmentationModel
from breastseg_train.paper.loss_variants import LOSSES
from breastseg_train.run.configuration import Configuration
from breastseg_train.run.global_batch import gathered, gathered_rows
from breastseg_train.run.processes import place
from breastseg_train.run.validation import THRESHOLDS, best_threshold, pixel_counts, validation_figures

THRESHOLD = 0.5
"""Probability from which a pixel is cell, where the run does not choose it."""


class SegmentationTraining(lightning.LightningModule):
    """Trains `model` as the configuration says; batches are (tensor, truth) of `frames`.

    Attributes:
        model: the one whose weights the optimiser moves.
        averaged: the moving average of its weights and running statistics, where the configuration asks for one.
        threshold: of the last validation.
    """

    def __init__(self, model: SegmentationModel, configuration: Configuration) -> None:
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)
        self.configuration = configuration
        self._loss = LOSSES[configuration.loss]
        self._frames: list[Tensor] = []
        self._thresholds = THRESHOLDS if configuration.choose_threshold else (THRESHOLD,)
        self.threshold = THRESHOLD
        if configuration.batch_norm_momentum is not None:
            for layer in model.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.momentum = configuration.batch_norm_momentum
        self.averaged: AveragedModel | None = None
        if configuration.weight_averaging is not None:
            average = get_ema_multi_avg_fn(configuration.weight_averaging)  # type: ignore[no-untyped-call]
            self.averaged = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)
            self.averaged.requires_grad_(False)

    @property
    def validated(self) -> SegmentationModel:
        """The model that is validated and saved: the average where there is one."""
        chosen: Any = self.model if self.averaged is None else self.averaged.module
        return cast(SegmentationModel, chosen)

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

    def on_train_batch_end(self, *_: Any) -> None:
        """Follow the weights, once for each step of the optimiser; validate where the clock stops the run."""
        if self.averaged is not None and self.trainer.global_step > int(self.averaged.n_averaged):
            self.averaged.update_parameters(self.model)
        if self.trainer.should_stop:
            self.trainer.check_val_every_n_epoch = 1  # this epoch may be none of those that validate

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        """Count the right and wrong pixels of whole frames at each threshold, and note their loss."""
        tensor, truth = batch
        logits = self.validated(tensor.contiguous(memory_format=torch.channels_last))
        probability = torch.sigmoid(logits.float())
        counts = [pixel_counts(probability >= threshold, truth) for threshold in self._thresholds]
        loss = self._loss(logits, truth).double().expand(len(truth), 1)
        self._frames.append(torch.cat([*counts, loss], dim=1))

    def on_validation_epoch_end(self) -> None:
        """Log the figures over all frames of all processes as `val_...`, the same on each process."""
        rows = gathered_rows(torch.cat(self._frames))
        self._frames.clear()
        counts = rows[:, :-1].reshape(len(rows), len(self._thresholds), -1)
        chosen = best_threshold(self._thresholds, counts)
        self.threshold = self._thresholds[chosen]
        figures = {"loss": float(rows[:, -1].mean()), **validation_figures(counts[:, chosen])}
        if self.configuration.choose_threshold:
            figures["threshold"] = self.threshold
        self.log_dict({f"val_{name}": value for name, value in figures.items()})

    def configure_optimizers(self) -> Any:
        """AdamW, under the one-cycle schedule where the run is stabilised."""
        c = self.configuration
        optimizer = AdamW(self._parameter_groups(), lr=c.lr_max, weight_decay=c.weight_decay)
        if not c.stabilised:
            return optimizer
        schedule = one_cycle(optimizer, c, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _parameter_groups(self) -> Any:
        """All parameters, the encoder's apart where they learn at a rate of their own."""
        c = self.configuration
        if c.encoder_lr_share == 1:
            return self.model.parameters()
        encoder = list(self.model.unet.encoder.parameters())
        known = {id(parameter) for parameter in encoder}
        rest = [parameter for parameter in self.model.parameters() if id(parameter) not in known]
        return [{"params": encoder, "lr": c.lr_max * c.encoder_lr_share}, {"params": rest}]


def one_cycle(optimizer: Optimizer, configuration: Configuration, steps: int) -> OneCycleLR:
    """The learning rate from lr_min to lr_max over the warm-up, then back to lr_min along a cosine.

    Each group of the optimiser keeps the share of both that its own rate has of lr_max.

    Source: the paper, eq. (5) and section III F; that the warm-up starts at lr_min is ours.
    """
    return OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=steps,
        pct_start=configuration.warmup_share,
        div_factor=configuration.lr_max / configuration.lr_min,
        final_div_factor=1.0,
        cycle_momentum=False,
    )
