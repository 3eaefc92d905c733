"""What a subcommand is, and how every command of the project ends: exit codes, one-line errors, Ctrl-C."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from breastseg_deploy.errors import BreastsegError

EXIT_INTERRUPTED = 130
"""What shells report for a process ended by Ctrl-C (128 + SIGINT)."""
EXIT_CLOSED_PIPE = 141
"""The same for a process whose reader went away, as in `breastseg inspect B | head -1` (128 + SIGPIPE)."""

BIT_DEPTHS = range(9, 17)
BIT_DEPTH_HELP = "bits that 16-bit frames use (9 to 16)"


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
        code = command.run(arguments)
        sys.stdout.flush()
        return code
    except BreastsegError as err:
        return _fail(arguments, err, str(err), err.exit_code)
    except KeyboardInterrupt as err:
        # CPython notes an interrupt that falls into code given as a string, as dataclasses are made of, and `python -m`
        # then ends by SIGINT whatever was caught; code that runs to its end takes the note back.
        exec("")
        return _fail(arguments, err, "interrupted; nothing is half-written", EXIT_INTERRUPTED)
    except MemoryError as err:
        return _fail(arguments, err, "this machine has too little memory for that; use smaller frames", 4)
    except BrokenPipeError:
        _drop_stdout()
        return EXIT_CLOSED_PIPE
    except OSError as err:  # such as a full disk behind stdout
        _drop_stdout()
        print(f"error: the operating system refused: {err}; check space and permissions", file=sys.stderr)
        return 1


def _fail(arguments: argparse.Namespace, err: BaseException, message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    if getattr(arguments, "json", False):
        print_json({"error": message, "kind": type(err).__name__})
    return code


def _drop_stdout() -> None:
    """Send what is left in the buffer nowhere, or the interpreter would complain about it once more as it ends."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_json(result: dict[str, Any]) -> None:
    """Print the one JSON object of `--json`, on one line of stdout."""
    print(json.dumps(result), flush=True)
