"""One training run, from a data folder to a run folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader

from breastseg_deploy.errors import ContractError
from breastseg_deploy.storage import make_folder, write_whole
from breastseg_train.augment import Augmentation
from breastseg_train.configuration import Configuration
from breastseg_train.data import Sample, read_data_set, read_mask
from breastseg_train.frames import TrainingFrames, WholeFrames
from breastseg_train.lightning_border import quiet_lightning, training_ends_in_a_sentence
from breastseg_train.mask_statistics import mask_statistics
from breastseg_train.model import Architecture, SegmentationModel
from breastseg_train.module import SegmentationTraining
from breastseg_train.run_folder import RESUME, RUN, RunFolder, read_description, run_description
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
    resume: bool = False,
) -> dict[str, Any]:
    """Train a model and leave its checkpoints and figures in the run folder.

    Args:
        data_root: see `data.read_data_set`.
        run: folder of the run; made where it does not exist.
        configuration: how to train.
        train_on: splits to train on.
        validate_on: splits to validate on.
        encoder_weights: see `model.SegmentationModel`.
        max_minutes: stop after the step that reaches this time, wherever the schedule is then, and validate.
        resume: go on with the run in `run` after its last whole epoch; it ends with the weights of a run that was never
            interrupted.

    Returns:
        The figures of the last validation, `epochs`, and `steps`.

    Raises:
        ContractError: a resumed run has another configuration or other data.
        DataError: the data set has problems.
        OutputError: the run folder cannot be written, or holds no run to resume.
        TrainingError: the loss became NaN or infinite; out of memory.
    """
    data = read_data_set(data_root, [*train_on, *validate_on], configuration.crop_px)
    description = run_description(configuration, data, {"train": train_on, "validate": validate_on})
    make_folder(run)
    if resume:
        _check_same_run(read_description(run), description, run)
    else:
        write_whole(run / RUN, json.dumps(description, indent=1).encode())
    lightning.seed_everything(configuration.seed, verbose=False)
    architecture = Architecture(configuration.encoder, configuration.decoder_channels)
    module = SegmentationTraining(SegmentationModel(architecture, encoder_weights), configuration)
    with quiet_lightning():
        trainer = lightning.Trainer(
            max_epochs=configuration.epochs,
            max_time=None if max_minutes is None else timedelta(minutes=max_minutes),
            accumulate_grad_batches=configuration.accumulation,
            gradient_clip_val=configuration.clip_norm if configuration.stabilised else None,
            check_val_every_n_epoch=configuration.validate_every_epochs,
            precision=configuration.precision,  # type: ignore[arg-type]
            num_sanity_val_steps=0,
            devices=1,
            callbacks=[RunFolder(run, description)],
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=sys.stderr.isatty(),
            default_root_dir=run,
        )
        with training_ends_in_a_sentence(trainer, run):
            trainer.fit(
                module,
                training_loader(data.samples(train_on), configuration),
                DataLoader(WholeFrames(data.samples(validate_on)), num_workers=configuration.workers),
                ckpt_path=run / RESUME if resume else None,
                weights_only=True,
            )
    figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {"epochs": trainer.current_epoch, "steps": trainer.global_step, **figures}


def training_loader(samples: Sequence[Sample], configuration: Configuration) -> DataLoader[Any]:
    """Batches of augmented crops, in the order that the seed decides."""
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
        generator=torch.Generator(),  # without its own, the loader draws from the model's dropout
    )


def _check_same_run(before: Mapping[str, Any], now: Mapping[str, Any], run: Path) -> None:
    """Refuse to resume with another configuration or data set; other library versions are the user's to judge."""
    for part in ("configuration", "data"):
        different = sorted(key for key in now[part] if before[part].get(key) != now[part][key])
        if different:
            raise ContractError(
                f"the run in {run} has another {part} ({', '.join(different)}); resume it with its own arguments"
            )
