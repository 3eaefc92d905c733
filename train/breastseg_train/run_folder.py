"""What a run leaves behind: configuration, figures of each validation, the best and the last checkpoint."""

from __future__ import annotations

import csv
import io
import json
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning

from breastseg_deploy.storage import write_whole
from breastseg_train.checkpoint import Checkpoint, save_checkpoint
from breastseg_train.configuration import Configuration
from breastseg_train.data import DataSet
from breastseg_train.module import THRESHOLD, SegmentationTraining

BEST, LAST, FIGURES, RUN = "best.safetensors", "last.safetensors", "metrics.csv", "run.json"
SCORE = "val_dice"
"""What chooses the best checkpoint: Dice over all frames, so that cells found in empty frames count against it."""


def run_description(configuration: Configuration, data: DataSet, splits: Mapping[str, list[str]]) -> dict[str, Any]:
    """What must be known to repeat a run; JSON values only."""
    packages = ("breastseg-deploy", "torch", "torchvision", "segmentation-models-pytorch", "lightning", "numpy")
    return {
        "configuration": asdict(configuration),
        "data": {
            "sha256": data.sha256,
            "splits": {role: {name: len(data.splits[name]) for name in names} for role, names in splits.items()},
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
    }


class RunFolder(lightning.Callback):
    """Writes the run folder while training goes on; every file is whole at any moment.

    Args:
        folder: of the run; exists.
        description: see `run_description`.
    """

    def __init__(self, folder: Path, description: Mapping[str, Any]) -> None:
        self._folder, self._description = folder, description
        self._rows: list[dict[str, float]] = []
        self._best = float("-inf")
        self._started = time.monotonic()
        write_whole(folder / RUN, json.dumps(description, indent=1).encode())

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Record the figures; save the model as the last, and as the best where it is."""
        if not isinstance(pl_module, SegmentationTraining) or not trainer.is_global_zero:
            return
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        row = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "minutes": round((time.monotonic() - self._started) / 60, 2),
            **{name: round(value, 6) for name, value in sorted(figures.items())},
        }
        self._rows.append(row)
        write_whole(self._folder / FIGURES, _csv(self._rows))
        details = {**self._description, "validation": row}
        checkpoint = Checkpoint(pl_module.model, THRESHOLD, details)
        save_checkpoint(checkpoint, self._folder / LAST)
        if figures[SCORE] > self._best:
            self._best = figures[SCORE]
            save_checkpoint(checkpoint, self._folder / BEST)


def _csv(rows: list[dict[str, float]]) -> bytes:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
