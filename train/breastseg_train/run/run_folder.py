"""What a run leaves behind: configuration, figures of each validation, the best and the last checkpoint."""

from __future__ import annotations

import csv
import io
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning

from breastseg_deploy.errors import OutputError
from breastseg_deploy.storage import write_whole
from breastseg_train.data.dataset import DataSet
from breastseg_train.network.checkpoint import Checkpoint, checkpoint_path, load_checkpoint, save_checkpoint
from breastseg_train.run.configuration import Configuration
from breastseg_train.run.curves import curves_png
from breastseg_train.run.module import SegmentationTraining
from breastseg_train.run.stabilise import best_epoch, stabilised

RUN, FIGURES, CURVES = "run.json", "metrics.csv", "curves.png"
BEST, LAST, RESUME = "best.safetensors", "last.safetensors", "resume.ckpt"
SCORE = "val_dice"
"""What chooses the best checkpoint: Dice over all frames, so that cells found in empty frames count against it."""


def run_description(configuration: Configuration, data: DataSet, roles: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What must be known to repeat a run; JSON values only.

    Args:
        configuration: of the run.
        data: the checked data set.
        roles: names of splits by what they are for.
    """
    packages = ("breastseg-deploy", "torch", "torchvision", "segmentation-models-pytorch", "lightning", "numpy")
    return {
        "configuration": configuration.as_json(),
        "data": {
            "sha256": data.sha256,
            "splits": {role: {name: len(data.splits[name]) for name in names} for role, names in roles.items()},
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
    }


def origin(checkpoint: str | Path) -> dict[str, Any]:
    """What a run that starts from a checkpoint says of it: the file's hash and what its own training recorded.

    Raises:
        CheckpointError: it is none.
    """
    path = checkpoint_path(checkpoint)
    details = load_checkpoint(path).details
    told = {
        name: details[name] for name in ("configuration", "data", "encoder_weights", "validation") if name in details
    }
    return {"sha256": sha256(path.read_bytes()).hexdigest(), **told}


class RunFolder(lightning.Callback):
    """Writes the run folder while training goes on; a file is there whole or as it was before.

    Of several processes, the first writes.

    Its rows travel in `resume.ckpt`, so that a resumed run continues its figures and its best score.

    Args:
        folder: of the run; exists.
        description: see `run_description`.
        encoder_weights: what the encoder started with, see `model.SegmentationModel`.
    """

    def __init__(
        self, folder: Path, description: Mapping[str, Any], encoder_weights: Mapping[str, str] | None = None
    ) -> None:
        self._folder, self._description, self._encoder_weights = folder, description, encoder_weights
        self._rows: list[dict[str, float]] = []
        self._validated = False
        self._started = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """What Lightning stores of this callback."""
        return {"rows": self._rows, "minutes": self._minutes(), "encoder_weights": self._encoder_weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from what was stored."""
        self._rows = list(state_dict["rows"])
        self._encoder_weights = state_dict["encoder_weights"]  # of the start, whatever the resumed run was given
        self._started = time.monotonic() - 60 * state_dict["minutes"]

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Note that this epoch has figures to record, once those of its training are there too."""
        self._validated = True

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Record the figures of a validated epoch and its model; save the whole state, to resume from.

        Raises:
            OutputError: no space, no permission.
        """
        if self._validated and isinstance(pl_module, SegmentationTraining):
            self._record(trainer, pl_module)
        self._validated = False
        if not trainer.should_stop:  # stopped by the clock, the epoch may not be whole
            self._save_state(trainer)

    def _save_state(self, trainer: lightning.Trainer) -> None:
        """Save what a run resumes from. Every process has to call Lightning for it; the first one writes."""
        if trainer.is_global_zero:
            self._write(RESUME, trainer.save_checkpoint)
        else:
            trainer.save_checkpoint(self._folder / RESUME)

    def _record(self, trainer: lightning.Trainer, module: SegmentationTraining) -> None:
        """Add a row of figures; save the model as the last, and as the best where it is."""
        figures = {name: round(float(value), 6) for name, value in sorted(trainer.callback_metrics.items())}
        history = stabilised([*(row[SCORE] for row in self._rows), figures[SCORE]])
        position = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step, "minutes": self._minutes()}
        row = {**position, **figures, f"{SCORE}_ema": round(history[-1].ema, 6), "outlier": int(history[-1].outlier)}
        self._rows.append(row)
        if not trainer.is_global_zero:  # every process keeps the rows, for it resumes with them; one writes
            return
        write_whole(self._folder / FIGURES, _csv(self._rows))
        write_whole(self._folder / CURVES, curves_png(self._rows))
        details = {**self._description, "encoder_weights": self._encoder_weights, "validation": row}
        checkpoint = Checkpoint(module.validated, module.threshold, details)
        self._write(LAST, lambda path: save_checkpoint(checkpoint, path))
        scores = [epoch.score for epoch in history]
        # Of any other epoch that is the best, the model stands in its file since then.
        best = best_epoch(history) if module.configuration.stabilised else scores.index(max(scores))
        if best == len(history) - 1:
            self._write(BEST, lambda path: save_checkpoint(checkpoint, path))

    def _write(self, name: str, write: Callable[[Path], None]) -> None:
        beside = self._folder / f".{name}.partial"
        try:
            write(beside)
            beside.replace(self._folder / name)
        except OSError as err:
            raise OutputError(
                f"cannot write {self._folder / name}: {err.strerror}; make room, then go on with --resume"
            ) from err
        finally:
            beside.unlink(missing_ok=True)

    def _minutes(self) -> float:
        return round((time.monotonic() - self._started) / 60, 2)


def read_description(folder: Path) -> dict[str, Any]:
    """The description of a run that can be resumed.

    Raises:
        OutputError: the folder holds no run, or none with a whole epoch.
    """
    try:
        if not (folder / RESUME).is_file():
            raise OutputError(f"{folder} holds no whole epoch to go on from ({RESUME} is missing); omit --resume")
        return dict(json.loads((folder / RUN).read_text()))
    except (OSError, ValueError) as err:
        raise OutputError(f"{folder} holds no run ({RUN} is missing or damaged); omit --resume") from err


def read_figures(folder: Path) -> list[dict[str, float]]:
    """The rows of a run's `metrics.csv`, at least one.

    Raises:
        OutputError: the folder holds no run that was validated.
    """
    try:
        with (folder / FIGURES).open(newline="") as file:
            rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError) as err:
        raise OutputError(
            f"{folder} holds no figures of a run ({FIGURES} is missing or damaged); train it first"
        ) from err
    if not rows:
        raise OutputError(f"{folder / FIGURES} has no rows; train the run up to its first validation")
    return rows


def _csv(rows: Sequence[Mapping[str, float]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
