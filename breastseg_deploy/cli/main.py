"""`breastseg COMMAND ...`: finds the commands of the installed packages and runs one of them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points

from breastseg_deploy.cli.command import Command, run_command
from breastseg_deploy.version import __version__

ENTRY_POINTS = "breastseg.commands"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `breastseg`; returns the exit code (0 done, 1 bad input, 2 usage, 3 parity, 4 machine)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    found = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    parser = argparse.ArgumentParser(
        prog="breastseg", description="Breast-cell segmentation, from training to scanner."
    )
    parser.add_argument("--version", action="version", version=f"breastseg {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands: dict[str, Command] = {}
    for name in sorted(found):
        commands[name] = command = found[name].load()
        subparser = subparsers.add_parser(name, help=command.summary, description=command.summary)
        command.add_arguments(subparser)
    chosen = parser.parse_args(given)
    return run_command(commands[chosen.command], chosen)


if __name__ == "__main__":
    sys.exit(main())
