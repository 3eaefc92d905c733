"""`breastseg COMMAND ...`: finds the commands of the installed packages and runs one of them."""

import sys

from breastseg_deploy.cli.start import started

TYPE_CHECKING = False  # see `start`
if TYPE_CHECKING:
    from collections.abc import Sequence

ENTRY_POINTS = "breastseg.commands"


def main(arguments: "Sequence[str] | None" = None) -> int:
    """Entry point of `breastseg`; returns the exit code (0 done, 1 bad input, 2 usage, 3 parity, 4 machine)."""
    return started(_run, arguments)


def _run(words: list[str]) -> int:
    from importlib.metadata import entry_points

    from breastseg_deploy.cli.command import Command, Parser, parse, run_command
    from breastseg_deploy.version import __version__

    parser = Parser(prog="breastseg", description="Breast-cell segmentation, from training to scanner.")
    parser.add_argument("--version", action="version", version=f"breastseg {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands: dict[str, Command] = {}
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        commands[point.name] = command = point.load()
        subparser = subparsers.add_parser(point.name, help=command.summary, description=command.summary)
        command.add_arguments(subparser)
    chosen = parse(parser, words)
    return run_command(commands[chosen.command], chosen)


if __name__ == "__main__":
    sys.exit(main())
