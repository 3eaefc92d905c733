"""`breastseg ablate`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from breastseg_deploy.cli.command import Command, print_json
from breastseg_train.run.configuration import TABLE_II, preset_configuration


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with SPLIT/images, SPLIT/masks")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="runs by preset, and the table")
    parser.add_argument(
        "--presets", nargs="+", default=TABLE_II, metavar="NAME", help=f"default: {', '.join(TABLE_II)}"
    )
    parser.add_argument("--small", action="store_true", help="every preset at the size of the demo model, for a CPU")
    parser.add_argument("--epochs", type=int, metavar="N", help="instead of the presets'")
    parser.add_argument("--validate-every", type=int, metavar="N", help="epochs, instead of the presets'")
    parser.add_argument("--seed", type=int, metavar="S", help="instead of the presets'")
    parser.add_argument("--train-on", nargs="+", default=["train"], metavar="SPLIT", help="splits to train on")
    parser.add_argument("--validate-on", nargs="+", default=["val"], metavar="SPLIT", help="splits to validate on")
    parser.add_argument("--test-on", nargs="+", default=["test"], metavar="SPLIT", help="splits to measure on")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def _run(arguments: argparse.Namespace) -> int:
    configurations = [preset_configuration(name) for name in arguments.presets]
    if arguments.small:
        configurations = [configuration.small() for configuration in configurations]
    given = {
        "epochs": arguments.epochs,
        "validate_every_epochs": arguments.validate_every,
        "seed": arguments.seed,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    configurations = [replace(configuration, **changes) for configuration in configurations]

    from breastseg_train.paper.ablation import TABLE, ablate, table

    rows = ablate(
        arguments.data,
        arguments.output,
        configurations,
        train_on=arguments.train_on,
        validate_on=arguments.validate_on,
        test_on=arguments.test_on,
        say=lambda step: print(step, file=sys.stderr),
    )
    if arguments.json:
        print_json({"table": str(arguments.output / TABLE), "rows": rows})
    else:
        print(table(rows), end="")
    return 0


COMMAND = Command(
    "train and measure a list of presets, and write the table",
    _add_arguments,
    _run,
    loads=("breastseg_train.paper.ablation",),
    extra="train",
)
