"""`breastseg ablate`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from breastseg_deploy.cli.command import Command, print_json
from breastseg_train.run.configuration import PRESETS, TABLE_II, Configuration, preset_configuration


def add_run_arguments(parser: argparse.ArgumentParser, presets: Sequence[str]) -> None:
    """The arguments of a command that trains and measures several presets.

    Args:
        parser: gets them.
        presets: trained where none are named.
    """
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with SPLIT/images, SPLIT/masks")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="runs by preset, and the table")
    parser.add_argument("--presets", nargs="+", default=presets, metavar="NAME", help=f"default: {', '.join(presets)}")
    parser.add_argument("--small", action="store_true", help="every preset at a size for a CPU")
    parser.add_argument("--epochs", type=int, metavar="N", help="instead of the presets'")
    parser.add_argument("--validate-every", type=int, metavar="N", help="epochs, instead of the presets'")
    parser.add_argument("--seed", type=int, metavar="S", help="instead of the presets'")
    parser.add_argument(
        "--encoder-weights",
        nargs="+",
        default=[],
        type=_weights,
        metavar="PRESET=NAME|FILE",
        help="such as general=package or paper=imagenet; random weights by default",
    )
    parser.add_argument("--train-on", nargs="+", default=["train"], metavar="SPLIT", help="splits to train on")
    parser.add_argument("--validate-on", nargs="+", default=["val"], metavar="SPLIT", help="splits to validate on")
    parser.add_argument("--test-on", nargs="+", default=["test"], metavar="SPLIT", help="splits to measure on")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def chosen_configurations(
    arguments: argparse.Namespace, presets: Mapping[str, Configuration] = PRESETS
) -> list[Configuration]:
    """The presets that were named, with what the arguments of `add_run_arguments` change.

    Raises:
        ArgumentError: a preset that nobody knows.
    """
    configurations = [preset_configuration(name, presets) for name in arguments.presets]
    if arguments.small:
        configurations = [configuration.small() for configuration in configurations]
    if arguments.epochs is not None:
        configurations = [configuration.trained_for(arguments.epochs, _say) for configuration in configurations]
    given = {"validate_every_epochs": arguments.validate_every, "seed": arguments.seed}
    changes = {name: value for name, value in given.items() if value is not None}
    return [replace(configuration, **changes) for configuration in configurations]


def _weights(text: str) -> tuple[str, str]:
    preset, _, weights = text.partition("=")
    return preset, weights


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser, TABLE_II)


def _run(presets: Mapping[str, Configuration], arguments: argparse.Namespace) -> int:
    configurations = chosen_configurations(arguments, presets)

    from breastseg_train.paper.ablation import TABLE, ablate, table

    rows = ablate(
        arguments.data,
        arguments.output,
        configurations,
        train_on=arguments.train_on,
        validate_on=arguments.validate_on,
        test_on=arguments.test_on,
        encoder_weights=dict(arguments.encoder_weights),
        say=_say,
    )
    if arguments.json:
        print_json({"table": str(arguments.output / TABLE), "rows": rows})
    else:
        print(table(rows), end="")
    return 0


def _say(words: str) -> None:
    print(words, file=sys.stderr)


def ablate_command(presets: Mapping[str, Configuration]) -> Command:
    """The command over these presets, by name."""
    return Command(
        "train and measure a list of presets, and write the table",
        _add_arguments,
        partial(_run, presets),
        loads=("breastseg_train.paper.ablation",),
        extra="train",
    )


COMMAND = ablate_command(PRESETS)
