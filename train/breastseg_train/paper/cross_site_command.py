"""`breastseg cross-site`."""

from __future__ import annotations

import argparse
import sys

from breastseg_deploy.cli.command import Command, print_json
from breastseg_train.paper.ablate_command import add_run_arguments, chosen_configurations

PRESETS = ("unet", "paper", "general")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--by", choices=["source"], default="source", help="what is left out in turn (manifest.csv)")
    parser.add_argument("--only", nargs="+", default=[], metavar="SOURCE", help="leave out these alone")
    add_run_arguments(parser, PRESETS)


def _run(arguments: argparse.Namespace) -> int:
    configurations = chosen_configurations(arguments)

    from breastseg_train.paper.ablation import TABLE
    from breastseg_train.paper.cross_site import cross_site, cross_site_table

    rows = cross_site(
        arguments.data,
        arguments.output,
        configurations,
        train_on=arguments.train_on,
        validate_on=arguments.validate_on,
        test_on=arguments.test_on,
        only=arguments.only,
        encoder_weights=dict(arguments.encoder_weights),
        say=lambda step: print(step, file=sys.stderr),
    )
    if arguments.json:
        print_json({"table": str(arguments.output / TABLE), "rows": rows})
    else:
        print(cross_site_table(rows), end="")
    return 0


COMMAND = Command(
    "train without each source in turn, and measure on it",
    _add_arguments,
    _run,
    loads=("breastseg_train.paper.cross_site",),
    extra="train",
)
