"""One training run, from a data folder to a run folder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning
from torch.utils.data import DataLoader

from breastseg_train.augment import Augmentation
from breastseg_train.configuration import Configuration
from breastseg_train.data import Sample, read_data_set, read_mask
from breastseg_train.frames import TrainingFrames, WholeFrames
from breastseg_train.mask_statistics import mask_statistics
from breastseg_train.model import Architecture, SegmentationModel
from breastseg_train.module import SegmentationTraining
from breastseg_train.run_folder import RunFolder, run_description
from breastseg_train.sampler import SeededDraws


def train(
    data_root: Path,
    run: Path,
    configuration: Configuration,
    *,
    train_on: Sequence[str] = ("train",),
    validate_on: Sequence[str] = ("val",),
    encoder_weights: str | None = None,
    max_minutes: float | None = None,
) -> dict[str, Any]:
    """Train a model and leave its checkpoints and figures in the run folder.

    Args:
        data_root: see `data.read_data_set`.
        run: folder of the run; exists.
        configuration: how to train.
        train_on: splits to train on.
        validate_on: splits to validate on.
        encoder_weights: see `model.SegmentationModel`.
        max_minutes: stop after the step that reaches this time, wherever the schedule is then.

    Returns:
        The figures of the last validation, `epochs`, and `steps`.

    Raises:
        DataError: the data set has problems.
        TrainingError: the loss became NaN or infinite.
    """
    data = read_data_set(data_root, [*train_on, *validate_on], configuration.crop_px)
    lightning.seed_everything(configuration.seed, verbose=False)
    architecture = Architecture(configuration.encoder, configuration.decoder_channels)
    module = SegmentationTraining(SegmentationModel(architecture, encoder_weights), configuration)
    description = run_description(configuration, data, {"train": list(train_on), "validate": list(validate_on)})
    trainer = lightning.Trainer(
        max_epochs=configuration.epochs,
        max_time=None if max_minutes is None else timedelta(minutes=max_minutes),
        accumulate_grad_batches=configuration.accumulation,
        gradient_clip_val=configuration.clip_norm,
        check_val_every_n_epoch=configuration.validate_every_epochs,
        precision=configuration.precision,  # type: ignore[arg-type]
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        callbacks=[RunFolder(run, description)],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty(),
        default_root_dir=run,
    )
    trainer.fit(
        module,
        training_loader(data.samples(train_on), configuration),
        DataLoader(WholeFrames(data.samples(validate_on)), num_workers=configuration.workers),
    )
    figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {"epochs": trainer.current_epoch, "steps": trainer.global_step, **figures}


def training_loader(samples: Sequence[Sample], configuration: Configuration) -> DataLoader[Any]:
    """Batches of augmented crops in the order that the seed decides."""
    weights = None
    if configuration.weighted_sampling:
        weights = [mask_statistics(read_mask(sample.mask)).complexity for sample in samples]
    augmentation = Augmentation(configuration.crop_px, configuration.brightness_contrast)
    return DataLoader(
        TrainingFrames(samples, augmentation),
        batch_size=configuration.batch_size,
        sampler=SeededDraws(weights, len(samples), configuration.seed),
        num_workers=configuration.workers,
        persistent_workers=configuration.workers > 0,
        drop_last=True,
    )
