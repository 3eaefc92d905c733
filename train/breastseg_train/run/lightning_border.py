"""The border to PyTorch Lightning: what it prints, and how its runs end, brought to the ways of this project."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning
import torch

from breastseg_deploy.errors import TrainingError
from breastseg_train.run.processes import LostProcessError, tells_of_a_lost_process

_LOGGERS = ("lightning.pytorch", "lightning.fabric")
_WARNINGS = (
    r".*isinstance\(treespec, LeafSpec\).*",  # Lightning 2.6 over a torch newer than itself
    r".*does not have many workers.*",  # the configuration decides the number
    r".*sync_dist=True.*",  # figures are gathered before they are logged
    r".*`broadcast_buffers` is deprecated.*",  # its successor is newer than the torch that this project needs at least
)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Lightning without its notices about hardware and other products, and without warnings nobody can act on."""
    levels = {logger: logger.level for logger in map(logging.getLogger, _LOGGERS)}
    for logger in levels:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in _WARNINGS:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


@contextmanager
def training_ends_in_a_sentence(trainer: lightning.Trainer, run: Path) -> Iterator[None]:
    """Turn the ends that Lightning and PyTorch give a run into this project's.

    Raises:
        KeyboardInterrupt: on Ctrl-C, which Lightning turns into the end of the process.
        TrainingError: out of memory; another process of the run ended.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as end:
        if not trainer.interrupted:
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from end
    except (torch.OutOfMemoryError, MemoryError) as err:
        raise TrainingError(
            f"out of memory while training; the checkpoints in {run} stay usable: lower batch_size and raise "
            "accumulation by the same factor, or lower crop_px"
        ) from err
    except RuntimeError as err:
        if tells_of_a_lost_process(err):
            raise LostProcessError(
                f"another process of the run ended, and says why; the checkpoints in {run} stay usable"
            ) from err
        raise
