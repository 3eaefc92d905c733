"""`breastseg fit-gate`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from breastseg_deploy.cli.command import Command, print_json
from breastseg_deploy.errors import ArgumentError
from breastseg_deploy.progress import Progress
from breastseg_deploy.storage import check_output_file


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="a .safetensors checkpoint, or the word 'demo'")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with SPLIT/images, SPLIT/masks")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the checkpoint with its gate")
    parser.add_argument("--fit-on", nargs="+", default=["train"], metavar="SPLIT", help="default: train")
    parser.add_argument(
        "--calibrate-on", nargs="+", default=["val"], metavar="SPLIT", help="frames that trained nothing; default: val"
    )
    parser.add_argument(
        "--recall", type=float, default=0.995, metavar="R", help="of frames with cells; default: %(default)s"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def _run(arguments: argparse.Namespace) -> int:
    from dataclasses import replace

    from breastseg_train.data.dataset import read_data_set
    from breastseg_train.network.checkpoint import load_checkpoint, save_checkpoint
    from breastseg_train.run.gate import check_recall, fit_gate

    check_recall(arguments.recall)
    check_output_file(arguments.output)
    checkpoint = load_checkpoint(arguments.checkpoint)
    seen = _seen_in_training(checkpoint.details, arguments.calibrate_on)
    if seen:
        print(f"warning: {seen}; the promise is one for frames that had no say in the model", file=sys.stderr)
    data = read_data_set(arguments.data, [*arguments.fit_on, *arguments.calibrate_on])
    count = len(data.samples([*arguments.fit_on, *arguments.calibrate_on]))
    with Progress("encoder", count, "frames") as progress:
        fitted = fit_gate(
            checkpoint.model, data, arguments.fit_on, arguments.calibrate_on, arguments.recall, progress.update
        )
    save_checkpoint(replace(checkpoint, gate=fitted), arguments.output)
    found = fitted.calibration
    if arguments.json:
        print_json({"checkpoint": str(arguments.output), "gate": found.model_dump(mode="json")})
        return 0
    skipped = "no empty frame to try it on" if found.empty_skipped is None else f"{found.empty_skipped:.3f}"
    print(f"{arguments.output}: {found.promise}; share of the {found.frames_empty} empty ones skipped: {skipped}")
    return 0


def _seen_in_training(details: Mapping[str, Any], calibrate_on: Sequence[str]) -> str:
    """What the checkpoint's header says of the splits; empty where it says nothing.

    Raises:
        ArgumentError: a split of that name trained the model.
    """
    data = details.get("data")
    splits = data.get("splits", {}) if isinstance(data, Mapping) else {}
    trained = sorted(set(splits.get("train", ())) & set(calibrate_on))
    if trained:
        raise ArgumentError(
            f"by its header the checkpoint was trained on splits named {', '.join(trained)}, and the threshold needs "
            "frames that trained nothing; name other splits"
        )
    chose = sorted(set(splits.get("validate", ())) & set(calibrate_on))
    return f"splits named {', '.join(chose)} chose the checkpoint's epoch" if chose else ""


COMMAND = Command(
    "add an empty-frame gate to a checkpoint, calibrated on frames of your own",
    _add_arguments,
    _run,
    loads=("breastseg_train.run.gate",),
    extra="train",
)
