"""One training run, from a data folder to a run folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch.utils.data import DataLoader

from breastseg_deploy.errors import ArgumentError, MachineError
from breastseg_deploy.storage import make_folder, write_whole
from breastseg_train.data.augment import Augment, Augmentation
from breastseg_train.data.dataset import Sample, read_data_set
from breastseg_train.data.frames import TrainingFrames, WholeFrames
from breastseg_train.data.sampler import SeededDraws
from breastseg_train.data.sources import balanced_weights, cut_mosaics, sources
from breastseg_train.data.statistics import statistics_of
from breastseg_train.data.wide_augment import WideAugmentation
from breastseg_train.network.checkpoint import load_checkpoint
from breastseg_train.network.model import SegmentationModel
from breastseg_train.run.configuration import WIDE_AUGMENTATION, Configuration
from breastseg_train.run.global_batch import normalise_over_all_processes
from breastseg_train.run.lightning_border import TrainingProgress, quiet_lightning, training_ends_in_a_sentence
from breastseg_train.run.module import SegmentationTraining
from breastseg_train.run.processes import place, run_in_processes
from breastseg_train.run.run_folder import RESUME, RUN, RunFolder, origin, read_description, run_description


def train(
    data_root: Path,
    run: Path,
    configuration: Configuration,
    *,
    train_on: Sequence[str] = ("train",),
    validate_on: Sequence[str] = ("val",),
    encoder_weights: str | None = None,
    start_from: str | Path | None = None,
    max_minutes: float | None = None,
    resume: bool = False,
    devices: int = 1,
    callbacks: Sequence[lightning.Callback] = (),
) -> dict[str, Any]:
    """Train a model and leave its checkpoints and figures in the run folder.

    Args:
        data_root: see `data.read_data_set`.
        run: folder of the run; made where it does not exist.
        configuration: how to train.
        train_on: splits to train on.
        validate_on: splits to validate on.
        encoder_weights: see `model.SegmentationModel`.
        start_from: a checkpoint of the same architecture, or the word "demo", whose weights the run starts with. The
            run's checkpoints say which it was.
        max_minutes: stop after the step that reaches this time, wherever the schedule is then, and validate.
        resume: go on with the run in `run` after its last whole epoch; it ends with the weights of a run that was never
            interrupted.
        devices: GPUs to train on, or processes on the CPU where there is no GPU; the batch is shared out among them.
            Under torchrun, its number of processes counts instead.
        callbacks: of Lightning, called in every process before the run folder's own; with several devices they must
            pickle.

    Returns:
        The figures of the last validation, `epochs`, and `steps`.

    Raises:
        CheckpointError: `start_from` is no checkpoint.
        ArgumentError: a resumed run has another configuration or other data; `start_from` has another architecture; a
            batch or a validation split that cannot be shared out.
        DataError: the data set has problems.
        MachineError: fewer GPUs than devices.
        OutputError: the run folder cannot be written, or holds no run to resume.
        TrainingError: the loss became NaN or infinite; out of memory; a process was ended.
    """
    processes = place().processes if place().processes > 1 else devices
    _check_machine(processes if place().processes == 1 else place().processes_here)
    data = read_data_set(data_root, [*train_on, *validate_on], configuration.crop_px)
    description = run_description(configuration, data, {"train": train_on, "validate": validate_on})
    if start_from is not None:
        description |= {"started_from": origin(start_from)}
    training = data.samples(train_on)
    work = _Work(
        tuple(cut_mosaics(data_root, training)) if configuration.balanced_sources else training,
        data.samples(validate_on),
        data_root,
        run,
        description,
        configuration,
        encoder_weights,
        start_from,
    )
    _check_shares(work, processes)
    make_folder(run)
    if resume:
        _check_same_run(read_description(run), description, run)
    elif place().rank == 0:
        write_whole(run / RUN, json.dumps(description, indent=1).encode())
    if processes > place().processes:
        figures: dict[str, Any] = run_in_processes(_fit, processes, work, max_minutes, resume, callbacks)
        return figures
    return _fit(work, max_minutes, resume, callbacks)


@dataclass(frozen=True)
class _Work:
    """What a process trains on, and where to; it pickles."""

    training: Sequence[Sample]
    validation: Sequence[Sample]
    data_root: Path
    run: Path
    description: Mapping[str, Any]
    configuration: Configuration
    encoder_weights: str | None
    start_from: str | Path | None

    def model(self) -> SegmentationModel:
        """The model to train, with the weights it starts with."""
        architecture = self.configuration.architecture()
        if self.start_from is None:
            return SegmentationModel(architecture, self.encoder_weights)
        model = load_checkpoint(self.start_from).model
        if model.architecture != architecture:
            raise ArgumentError(
                f"{self.start_from} holds {model.architecture}, the run trains {architecture}; start from a checkpoint "
                "of the same architecture"
            )
        return model.train()


def _fit(
    work: _Work, max_minutes: float | None, resume: bool, callbacks: Sequence[lightning.Callback]
) -> dict[str, Any]:
    """Train in this process, together with the others of its `place`."""
    run, configuration = work.run, work.configuration
    lightning.seed_everything(configuration.seed, verbose=False)
    model = work.model()
    module = SegmentationTraining(model, configuration)
    if place().processes > 1:
        normalise_over_all_processes(module)
    with quiet_lightning():
        trainer = lightning.Trainer(
            max_epochs=configuration.epochs,
            max_time=None if max_minutes is None else timedelta(minutes=max_minutes),
            accumulate_grad_batches=configuration.accumulation,
            gradient_clip_val=configuration.clip_norm if configuration.stabilised else None,
            check_val_every_n_epoch=configuration.validate_every_epochs,
            precision=configuration.precision,  # type: ignore[arg-type]
            num_sanity_val_steps=0,  # its figures of an untrained network would enter the moving average
            accelerator="cpu" if place().processes > 1 and not torch.cuda.is_available() else "auto",
            devices=place().processes_here,
            num_nodes=place().processes // place().processes_here,
            strategy=_strategy(),
            use_distributed_sampler=False,  # `SeededDraws` shares out; Lightning's would draw other frames
            callbacks=[
                *callbacks,
                RunFolder(run, work.description, model.weights_from),
                *([] if sys.stderr.isatty() else [TrainingProgress()]),
            ],
            logger=False,
            enable_checkpointing=False,  # `RunFolder` writes checkpoints, whole or not at all
            enable_model_summary=False,
            enable_progress_bar=sys.stderr.isatty(),
            default_root_dir=run,
        )
        with training_ends_in_a_sentence(trainer, run):
            trainer.fit(
                module,
                training_loader(work.training, configuration, work.data_root),
                DataLoader(
                    WholeFrames(work.validation[place().rank :: place().processes]), num_workers=configuration.workers
                ),
                ckpt_path=run / RESUME if resume else None,
                weights_only=True,
            )
    figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {"epochs": trainer.current_epoch, "steps": trainer.global_step, **figures}


def _strategy() -> Strategy | str:
    """DistributedDataParallel over the processes of this `place`; nothing special for one."""
    if place().processes == 1:
        return "auto"
    return DDPStrategy(
        cluster_environment=TorchElasticEnvironment(),
        find_unused_parameters=True,  # encoders bring layers that the decoder never asks for
        broadcast_buffers=False,  # running statistics are those of the global batch, so the same everywhere
    )


def training_loader(samples: Sequence[Sample], configuration: Configuration, data_root: Path) -> DataLoader[Any]:
    """Batches of augmented crops, in the order that the seed decides; of each, the share of this process."""
    weights = None
    if configuration.weighted_sampling or configuration.balanced_sources:
        masks = statistics_of(samples)
        weights = [mask.complexity for mask in masks]
        if configuration.balanced_sources:
            named = sources(data_root, samples)
            weights = balanced_weights(named, masks, configuration.source_shares).tolist()
    return DataLoader(
        TrainingFrames(samples, _augmentation(configuration)),
        batch_size=configuration.batch_size // place().processes,
        sampler=SeededDraws(weights, len(samples), configuration.seed, place().rank, place().processes),
        num_workers=configuration.workers,
        persistent_workers=configuration.workers > 0,
        drop_last=True,
        generator=torch.Generator(),  # without its own, the loader draws from the model's dropout
    )


def _augmentation(configuration: Configuration) -> Augment:
    if configuration.augmentation == WIDE_AUGMENTATION:
        return WideAugmentation(configuration.crop_px, configuration.inverted_share)
    return Augmentation(
        configuration.crop_px, configuration.brightness_contrast, patch_sampling=configuration.patch_sampling
    )


def _check_machine(processes: int) -> None:
    gpus = torch.cuda.device_count()
    if 0 < gpus < processes:
        raise MachineError(f"{processes} devices were asked for and this machine has {gpus} GPU(s); lower --devices")


def _check_shares(work: _Work, processes: int) -> None:
    """Refuse a batch that cannot be shared out evenly, and a process without a frame to validate."""
    batch_size = work.configuration.batch_size
    if processes < 1 or batch_size % processes:
        raise ArgumentError(
            f"the batch of {batch_size} cannot be shared out among {processes} processes; take a number of devices "
            f"that divides it"
        )
    if len(work.validation) < processes:
        raise ArgumentError(
            f"{len(work.validation)} validation frames are too few for {processes} processes, each of which needs one; "
            "take fewer devices"
        )


def _check_same_run(before: Mapping[str, Any], now: Mapping[str, Any], run: Path) -> None:
    """Refuse to resume with another configuration or data set; other library versions are the user's to judge."""
    for part in ("configuration", "data"):
        different = sorted(key for key in now[part] if before[part].get(key) != now[part][key])
        if different:
            raise ArgumentError(
                f"the run in {run} has another {part} ({', '.join(different)}); resume it with its own arguments"
            )
