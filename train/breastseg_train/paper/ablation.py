"""Table II and more: a list of presets trained and measured on the same data, and the table of what came of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from breastseg_deploy.errors import ArgumentError, OutputError
from breastseg_deploy.storage import make_folder, write_whole
from breastseg_train.data.dataset import Sample, read_data_set
from breastseg_train.evaluate.evaluation import evaluate, summary
from breastseg_train.evaluate.otsu import otsu_predictors
from breastseg_train.evaluate.table import COLUMNS, cells
from breastseg_train.network.checkpoint import load_checkpoint
from breastseg_train.run.configuration import Configuration
from breastseg_train.run.curves import comparison_png
from breastseg_train.run.experiment import experiment_predictor, run_experiment
from breastseg_train.run.module import THRESHOLD
from breastseg_train.run.run_folder import BEST, RESUME, read_figures

_MEASURED = {"data_sha256": "data", "test_on": "test splits", "encoder_weights": "encoder weights"}
"""What a measurement belongs to beside the configuration, as it is called in messages."""

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
    encoder_weights: Mapping[str, str] | None = None,
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
        encoder_weights: of `training.train`, by preset; random weights for those not named.
        say: told about each step, in a sentence.

    Returns:
        One row per configuration: `preset`, `seed`, `epochs`, `minutes`, `parameters`, `paper_dice`, and `evaluation`,
        see `evaluation.summary`; then one for each of Otsu's thresholds, see `otsu`.

    Raises:
        ArgumentError: two configurations of one name; encoder weights for a preset that is not trained; a finished run
            of that name has another configuration.
        DataError, OutputError, TrainingError: see `training.train`.
    """
    names = [configuration.preset for configuration in configurations]
    if len(set(names)) < len(names):
        raise ArgumentError(f"each preset can stand in the table once, got {', '.join(names)}")
    weights = dict(encoder_weights or {})
    if unknown := sorted(set(weights) - set(names)):
        raise ArgumentError(f"encoder weights were given for {', '.join(unknown)}, which is not trained here")
    data = read_data_set(data_root, [*train_on, *validate_on, *test_on], max(c.crop_px for c in configurations))
    make_folder(output)
    baselines = _baselines(data.samples(test_on))
    rows: list[dict[str, Any]] = []
    for configuration in configurations:
        folder = output / configuration.preset
        measured = {"data_sha256": data.sha256, "test_on": list(test_on), "encoder_weights": weights.get(folder.name)}
        row = _finished(folder, configuration, measured)
        if row is None:
            say(f"training {configuration.preset}")
            resume = (folder / RESUME).is_file()
            run_experiment(
                data_root,
                folder,
                configuration,
                train_on=train_on,
                validate_on=validate_on,
                encoder_weights=weights.get(configuration.preset),
                resume=resume,
            )
            say(f"measuring {configuration.preset}")
            row = _measured(folder, configuration, data.samples(test_on))
            write_whole(folder / EVALUATION, json.dumps({**measured, "row": row}, indent=1).encode())
        rows.append(row)
        write_whole(output / TABLE_JSON, json.dumps([*rows, *baselines], indent=1).encode())
        write_whole(output / TABLE, table([*rows, *baselines]).encode())
        curves = {row["preset"]: read_figures(output / row["preset"]) for row in rows}
        write_whole(output / CURVES, comparison_png(curves))
    return [*rows, *baselines]


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows of `ablate` as a Markdown table; Dice with 95 % bootstrap intervals over frames with cells."""
    header = ("preset", *COLUMNS, "parameters", "epochs", "minutes", "the paper's Dice")
    lines = [header, ("---",) * len(header), *(_cells(row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    if row["epochs"] is None:  # nothing was trained
        return (row["preset"], *cells(row["evaluation"]), "-", "-", "-", "-")
    return (
        f"`{row['preset']}`",
        *cells(row["evaluation"]),
        f"{row['parameters'] / 1e6:.1f} M",
        str(row["epochs"]),
        f"{row['minutes']:.0f}",
        "-" if row["paper_dice"] is None else f"{row['paper_dice']:.3f}",
    )


def _baselines(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """The rows of what needs no training, with None for all that training has."""
    untrained = dict.fromkeys(("seed", "epochs", "minutes", "parameters", "paper_dice"))
    return [
        {"preset": name, **untrained, "evaluation": summary(evaluate(predict, samples, THRESHOLD))}
        for name, predict in otsu_predictors(samples).items()
    ]


def _measured(folder: Path, configuration: Configuration, samples: Sequence[Sample]) -> dict[str, Any]:
    checkpoint = load_checkpoint(folder / BEST)
    figures = evaluate(experiment_predictor(checkpoint), samples, checkpoint.threshold)
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


def _finished(folder: Path, configuration: Configuration, measured: Mapping[str, Any]) -> dict[str, Any] | None:
    """The row of a run that was measured already; None where there is none.

    Raises:
        ArgumentError: it was made with another configuration or other weights, on other data, or measured on other
            splits.
        OutputError: its files are damaged.
    """
    if not (folder / EVALUATION).is_file():
        return None
    try:
        found = json.loads((folder / EVALUATION).read_text())
        trained = load_checkpoint(folder / BEST).details["configuration"]
        row, others = dict(found["row"]), [_MEASURED[name] for name in measured if found[name] != measured[name]]
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise OutputError(f"{folder / EVALUATION} is damaged ({err}); move {folder} away and start again") from err
    wanted = configuration.as_json()
    ignored = (
        {"epochs", "validate_every_epochs", "active_learning_rounds"} if configuration.active_learning_rounds else set()
    )
    different = [name for name in wanted if name not in ignored and trained.get(name) != wanted[name]]
    if different or row["epochs"] != configuration.epochs or others:
        raise ArgumentError(
            f"{folder} holds a finished run of another kind ({', '.join([*different, *others]) or 'epochs'}); choose "
            "another --output"
        )
    return row
