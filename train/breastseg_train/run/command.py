"""`breastseg train`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from breastseg_deploy.cli.command import Command, print_json
from breastseg_deploy.errors import ArgumentError
from breastseg_deploy.storage import check_output_folder
from breastseg_train.network.architecture import NO_ENCODER
from breastseg_train.run.configuration import PRESETS, Configuration, preset_configuration
from breastseg_train.run.processes import place

Presets = Mapping[str, Configuration]


def _add_arguments(presets: Presets, parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with SPLIT/images, SPLIT/masks")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="run folder to make")
    parser.add_argument("--preset", default="paper", metavar="NAME", help=f"one of {', '.join(sorted(presets))}")
    parser.add_argument("--small", action="store_true", help="the preset at a size for a CPU")
    parser.add_argument("--train-on", nargs="+", default=["train"], metavar="SPLIT", help="splits to train on")
    parser.add_argument("--validate-on", nargs="+", default=["val"], metavar="SPLIT", help="splits to validate on")
    parser.add_argument("--epochs", type=int, metavar="N", help="instead of the preset's")
    parser.add_argument("--max-minutes", type=float, metavar="M", help="stop then, wherever the schedule is")
    parser.add_argument("--seed", type=int, metavar="S", help="instead of the preset's")
    parser.add_argument(
        "--encoder-weights",
        metavar="NAME|FILE",
        help="package (installed by the extra weights), imagenet (downloaded), or a safetensors file; none by default",
    )
    parser.add_argument(
        "--start-from", metavar="CHECKPOINT", help="whose weights the run starts with: a file, or the word demo"
    )
    parser.add_argument(
        "--source-share",
        nargs="+",
        default=[],
        type=_share,
        metavar="SOURCE=X",
        help="how often a source of manifest.csv is drawn, where sources are balanced; 1 for those not named",
    )
    parser.add_argument("--devices", type=int, default=1, metavar="N", help="GPUs, or processes where there is none")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --output after its last epoch")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def _run(presets: Presets, arguments: argparse.Namespace) -> int:
    configuration = preset_configuration(arguments.preset, presets)
    if arguments.small:
        configuration = configuration.small()
    given = {"seed": arguments.seed, "source_shares": dict(arguments.source_share) or None}
    configuration = replace(configuration, **{name: value for name, value in given.items() if value is not None})
    leads = place().rank == 0
    if arguments.epochs is not None:
        configuration = configuration.trained_for(arguments.epochs, _say if leads else lambda _: None)
    check_output_folder(arguments.output, force=arguments.resume or not leads)

    from breastseg_train.run.experiment import run_experiment

    if arguments.encoder_weights is not None and arguments.start_from is not None:
        raise ArgumentError(
            "--start-from brings the encoder's weights with all others: omit --encoder-weights, or start from it alone"
        )
    bare = arguments.encoder_weights is None and arguments.start_from is None
    if bare and configuration.encoder != NO_ENCODER and leads:
        _say("warning: no --encoder-weights: the encoder starts from random weights")
    figures = run_experiment(
        arguments.data,
        arguments.output,
        configuration,
        train_on=arguments.train_on,
        validate_on=arguments.validate_on,
        encoder_weights=arguments.encoder_weights,
        start_from=arguments.start_from,
        max_minutes=arguments.max_minutes,
        resume=arguments.resume,
        devices=arguments.devices,
    )
    if not leads:
        return 0
    if arguments.json:
        print_json({"run": str(arguments.output), **figures})
    else:
        print(f"{arguments.output}: {figures['epochs']} epochs, validation Dice {figures['val_dice']:.4f}")
    return 0


def _say(words: str) -> None:
    print(words, file=sys.stderr)


def _share(text: str) -> tuple[str, float]:
    """A source and its share."""
    name, _, share = text.rpartition("=")
    return name, float(share)


def train_command(presets: Presets) -> Command:
    """The command over these presets, by name."""
    return Command(
        "train a model on a folder of frames and masks",
        partial(_add_arguments, presets),
        partial(_run, presets),
        loads=("breastseg_train.run.experiment",),
        extra="train",
    )


COMMAND = train_command(PRESETS)
