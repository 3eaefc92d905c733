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

_WARNINGS = (
    r".*isinstance\(treespec, LeafSpec\).*",  # Lightning 2.6 over a torch newer than itself
    r".*does not have many workers.*",  # the configuration decides the number
)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Lightning without its notices about hardware and other products, and without two warnings nobody can act on."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in _WARNINGS:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def training_ends_in_a_sentence(trainer: lightning.Trainer, run: Path) -> Iterator[None]:
    """Turn the ends that Lightning and PyTorch give a run into this project's.

    Raises:
        KeyboardInterrupt: on Ctrl-C, which Lightning turns into the end of the process.
        TrainingError: out of memory.
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
