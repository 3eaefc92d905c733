"""What a subcommand is, and how every command of the project ends: exit codes, one-line errors, Ctrl-C."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from breastseg_deploy.errors import BreastsegError

EXIT_INTERRUPTED = 130
"""What shells report for a process ended by Ctrl-C (128 + SIGINT)."""


@dataclass(frozen=True)
class Command:
    """A subcommand.

    Attributes:
        summary: one line for `breastseg --help`.
        add_arguments: adds the arguments; must not import anything heavy.
        run: does the work and returns the exit code; heavy imports belong inside.
    """

    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def run_command(command: Command, arguments: argparse.Namespace) -> int:
    """Run a command; errors of the tree become one line on stderr and their exit code.

    With `--json`, the error is also the JSON object on stdout, so that a script always finds one there.
    """
    try:
        return command.run(arguments)
    except BreastsegError as err:
        print(f"error: {err}", file=sys.stderr)
        if getattr(arguments, "json", False):
            print_json({"error": str(err), "kind": type(err).__name__})
        return err.exit_code
    except KeyboardInterrupt:
        print("interrupted: what was finished is kept, nothing is half-written", file=sys.stderr)
        return EXIT_INTERRUPTED


def print_json(result: dict[str, Any]) -> None:
    """Print the one JSON object of `--json`, on one line of stdout."""
    print(json.dumps(result), flush=True)
