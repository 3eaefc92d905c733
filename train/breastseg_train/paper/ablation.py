"""Table II and more: a list of presets trained and measured on the same data, and the table of what came of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from breastseg_deploy.errors import ContractError, OutputError
from breastseg_deploy.progress import followed
from breastseg_deploy.storage import make_folder, write_whole
from breastseg_train.data.dataset import DataSet, Sample, read_data_set
from breastseg_train.evaluate.evaluation import evaluate, summary
from breastseg_train.network.checkpoint import load_checkpoint
from breastseg_train.run.configuration import Configuration
from breastseg_train.run.curves import comparison_png
from breastseg_train.run.experiment import experiment_predictor, run_experiment
from breastseg_train.run.run_folder import BEST, RESUME, read_figures

EVALUATION, TABLE, TABLE_JSON, CURVES = "evaluation.json", "table.md", "table.json", "validation.png"

PAPER_DICE = {
    "unet": 0.782,
    "attention-unet": 0.824,
    "attention-unet-hybrid": 0.871,
    "attention-unet-mc-dropout": 0.853,
    "multiscale-attention-unet": 0.892,
    "paper": 0.955,
}
"""The paper's Table II, on its own data and at its own size."""


def ablate(
    data_root: Path,
    output: Path,
    configurations: Sequence[Configuration],
    *,
    train_on: Sequence[str] = ("train",),
    validate_on: Sequence[str] = ("val",),
    test_on: Sequence[str] = ("test",),
    say: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Train each configuration in a folder of its own, measure its best checkpoint, and write the table.

    What is finished already stays as it is; an interrupted run goes on after its last whole epoch (rounds of active
    learning start again, in an emptied folder). The table is written after each run, so that an interrupted list leaves
    the rows that it has.

    Args:
        data_root: see `data.read_data_set`.
        output: holds a run folder per preset, the table as Markdown and JSON, and the validation curves.
        configurations: what to train, in the order of the table.
        train_on: splits to train on.
        validate_on: splits that choose each run's best checkpoint.
        test_on: splits that are measured.
        say: told about each step, in a sentence.

    Returns:
        One row per configuration: `preset`, `seed`, `epochs`, `minutes`, `parameters`, `paper_dice`, and `evaluation`,
        see `evaluation.summary`.

    Raises:
        ContractError: two configurations of one name; a finished run of that name has another configuration.
        DataError, OutputError, TrainingError: see `training.train`.
    """
    names = [configuration.preset for configuration in configurations]
    if len(set(names)) < len(names):
        raise ContractError(f"each preset can stand in the table once, got {', '.join(names)}")
    data = read_data_set(data_root, [*train_on, *validate_on, *test_on], max(c.crop_px for c in configurations))
    make_folder(output)
    rows: list[dict[str, Any]] = []
    for configuration in configurations:
        folder = output / configuration.preset
        row = _finished(folder, configuration, data, test_on)
        if row is None:
            say(f"training {configuration.preset}")
            resume = (folder / RESUME).is_file()
            run_experiment(data_root, folder, configuration, train_on=train_on, validate_on=validate_on, resume=resume)
            say(f"measuring {configuration.preset}")
            row = _measured(folder, configuration, data.samples(test_on))
            found = {"data_sha256": data.sha256, "test_on": list(test_on), "row": row}
            write_whole(folder / EVALUATION, json.dumps(found, indent=1).encode())
        rows.append(row)
        write_whole(output / TABLE_JSON, json.dumps(rows, indent=1).encode())
        write_whole(output / TABLE, table(rows).encode())
        curves = {row["preset"]: read_figures(output / row["preset"]) for row in rows}
        write_whole(output / CURVES, comparison_png(curves))
    return rows


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows of `ablate` as a Markdown table; Dice with 95 % bootstrap intervals over frames with cells."""
    header = (
        "preset",
        "Dice, frames with cells",
        "Dice, all frames",
        "empty frames with a false positive",
        "small structures found",
        "surface Dice",
        "parameters",
        "epochs",
        "minutes",
        "the paper's Dice",
    )
    lines = [header, ("---",) * len(header), *(_cells(row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    found = row["evaluation"]
    empty, small = found["empty"], found["small_structures"]
    dice, surface = found["with_cells"]["dice"], found["with_cells"]["surface_dice"]
    return (
        f"`{row['preset']}`",
        "-" if dice is None else "{:.3f} ({:.3f} to {:.3f})".format(dice["mean"], *dice["ci95"]),
        f"{found['all']['dice']['mean']:.3f}",
        f"{round((empty['false_positive_rate'] or 0) * empty['frames'])} of {empty['frames']}",
        f"{small['found']} of {small['count']}",
        "-" if surface is None else f"{surface['mean']:.3f}",
        f"{row['parameters'] / 1e6:.1f} M",
        str(row["epochs"]),
        f"{row['minutes']:.0f}",
        "-" if row["paper_dice"] is None else f"{row['paper_dice']:.3f}",
    )


def _measured(folder: Path, configuration: Configuration, samples: Sequence[Sample]) -> dict[str, Any]:
    checkpoint = load_checkpoint(folder / BEST)
    followed_samples = followed(samples, f"measuring {configuration.preset}", "frames")
    figures = evaluate(experiment_predictor(checkpoint), followed_samples, checkpoint.threshold)
    return {
        "preset": configuration.preset,
        "seed": configuration.seed,
        "epochs": configuration.epochs,
        "minutes": _minutes(folder),
        "parameters": sum(parameter.numel() for parameter in checkpoint.model.parameters()),
        "paper_dice": PAPER_DICE.get(configuration.preset),
        "evaluation": summary(figures),
    }


def _minutes(folder: Path) -> float:
    """Minutes of training, those of all rounds together."""
    rounds = sorted(folder.glob("round-*/run"))
    return sum(read_figures(run)[-1]["minutes"] for run in rounds or [folder])


def _finished(
    folder: Path, configuration: Configuration, data: DataSet, test_on: Sequence[str]
) -> dict[str, Any] | None:
    """The row of a run that was measured already; None where there is none.

    Raises:
        ContractError: it was made with another configuration, on other data or measured on other splits.
        OutputError: its files are damaged.
    """
    if not (folder / EVALUATION).is_file():
        return None
    try:
        found = json.loads((folder / EVALUATION).read_text())
        trained = load_checkpoint(folder / BEST).details["configuration"]
        row, same_data = dict(found["row"]), found["data_sha256"] == data.sha256
        same_splits = found["test_on"] == list(test_on)
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise OutputError(f"{folder / EVALUATION} is damaged ({err}); move {folder} away and start again") from err
    wanted = configuration.as_json()
    ignored = (
        {"epochs", "validate_every_epochs", "active_learning_rounds"} if configuration.active_learning_rounds else set()
    )
    different = [name for name in wanted if name not in ignored and trained.get(name) != wanted[name]]
    if different or row["epochs"] != configuration.epochs or not same_data or not same_splits:
        reasons = [*different, *([] if same_data else ["data"]), *([] if same_splits else ["test splits"])]
        raise ContractError(
            f"{folder} holds a finished run of another kind ({', '.join(reasons) or 'epochs'}); choose another --output"
        )
    return row
