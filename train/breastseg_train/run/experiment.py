"""An experiment is a configuration that is trained and measured the way it asks for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from breastseg_deploy.errors import ArgumentError
from breastseg_train.evaluate.evaluation import Predictor
from breastseg_train.evaluate.prediction import checkpoint_predictor
from breastseg_train.network.checkpoint import Checkpoint
from breastseg_train.paper.active_learning import train_actively
from breastseg_train.paper.crf import sharpened
from breastseg_train.run.configuration import Configuration
from breastseg_train.run.processes import place
from breastseg_train.run.training import train


def run_experiment(
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
) -> dict[str, Any]:
    """Train in one go, or in the rounds of active learning; see `training.train`.

    Raises:
        ArgumentError: rounds of active learning were asked to resume, to stop by the clock, or for several processes.
        DataError, OutputError, TrainingError: see `training.train`.
    """
    if not configuration.active_learning_rounds:
        return train(
            data_root,
            run,
            configuration,
            train_on=train_on,
            validate_on=validate_on,
            encoder_weights=encoder_weights,
            start_from=start_from,
            max_minutes=max_minutes,
            resume=resume,
            devices=devices,
        )
    brought = encoder_weights is not None or start_from is not None
    if resume or max_minutes is not None or brought or max(devices, place().processes) > 1:
        raise ArgumentError(
            "rounds of active learning start from their own weights and run to their end in one process: omit "
            "--resume, --max-minutes, --encoder-weights, --start-from and --devices, and choose an empty --output"
        )
    return train_actively(data_root, run, configuration, train_on=train_on, validate_on=validate_on)


def experiment_predictor(checkpoint: Checkpoint) -> Predictor:
    """The predictor that the checkpoint's run asked for: with a conditional random field behind it, or as it is."""
    predict = checkpoint_predictor(checkpoint)
    return sharpened(predict) if checkpoint.details.get("configuration", {}).get("crf") else predict
