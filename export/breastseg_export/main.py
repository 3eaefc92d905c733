"""`breastseg-export`, the same as `breastseg export`."""

import sys

from breastseg_deploy.cli.start import started

TYPE_CHECKING = False  # see `start`
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: "Sequence[str] | None" = None) -> int:
    """Entry point of `breastseg-export`; returns the exit code."""
    return started(_run, arguments)


def _run(words: list[str]) -> int:
    from breastseg_deploy.cli.command import Parser, parse, run_command
    from breastseg_export.command import COMMAND

    parser = Parser(prog="breastseg-export", description=COMMAND.summary)
    COMMAND.add_arguments(parser)
    return run_command(COMMAND, parse(parser, words))


if __name__ == "__main__":
    sys.exit(main())
