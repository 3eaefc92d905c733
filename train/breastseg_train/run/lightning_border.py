"""The border to PyTorch Lightning: what it prints, and how its runs end, brought to the ways of this project."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import lightning
import torch

from breastseg_deploy.errors import TrainingError
from breastseg_deploy.progress import Progress
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


class TrainingProgress(lightning.Callback):
    """Says how far a training is where Lightning's bar would fill a log; see `progress.Progress`.

    Of several processes, the first speaks.

    Args:
        progress: makes what speaks.
    """

    def __init__(self, progress: Callable[[str, int, str], Progress] = Progress) -> None:
        self._make = progress
        self._open = ExitStack()
        self._progress: Progress | None = None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Begin, with the batches that are left: a resumed run has fewer."""
        if trainer.is_global_zero:
            batches = ((trainer.max_epochs or 0) - trainer.current_epoch) * int(trainer.num_training_batches)
            self._progress = self._open.enter_context(self._make("training", batches, "batches"))

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: object) -> None:
        """One more batch is done."""
        if self._progress is not None:
            self._progress.update()

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """End."""
        self._open.close()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """End silently: what follows is the error's."""
        self._open.__exit__(type(exception), exception, exception.__traceback__)


@contextmanager
def training_ends_in_a_sentence(trainer: lightning.Trainer, run: Path) -> Iterator[None]:
    """Turn the ends that Lightning and PyTorch give a run into this project's.

    Raises:
        KeyboardInterrupt: on Ctrl-C, or the kind that SIGTERM raised: Lightning turns both into the end of the process.
        TrainingError: out of memory; another process of the run ended.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as end:
        if not trainer.interrupted:
            raise
        signal.signal(signal.SIGINT, handler)
        raise (type(end.__context__) if isinstance(end.__context__, KeyboardInterrupt) else KeyboardInterrupt) from end
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
