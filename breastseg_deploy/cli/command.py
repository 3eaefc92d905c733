"""What a subcommand is, and how every command of the project ends: exit codes, and errors of one line."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from breastseg_deploy.cli.start import asks_for_json, loaded
from breastseg_deploy.errors import BreastsegError
from breastseg_deploy.extras import missing_is_named
from breastseg_deploy.progress import Progress

EXIT_USAGE = 2
EXIT_CLOSED_PIPE = 141
"""What shells report where the reader went away, as in `breastseg inspect B | head -1` (128 + SIGPIPE)."""

BIT_DEPTHS = range(9, 17)
BIT_DEPTH_HELP = "bits that 16-bit frames use (9 to 16)"


@dataclass(frozen=True)
class Command:
    """A subcommand.

    Attributes:
        summary: one line for `breastseg --help`.
        add_arguments: adds the arguments; must not import anything heavy.
        run: does the work and returns the exit code; heavy imports belong inside.
        loads: modules that `run` imports and that take their time: they are loaded before it, while Ctrl-C may still
            end the process at once (`start`).
        extra: that brings every library which these and `run` import; None where they come with the base installation,
            or are asked for with `extras.require`.
    """

    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    loads: tuple[str, ...] = ()
    extra: str | None = None


class UsageError(Exception):
    """The words of a command line make no sense; its text is argparse's own."""

    def __init__(self, usage: str, program: str, message: str) -> None:
        super().__init__(message)
        self.usage, self.program = usage, program


class Parser(argparse.ArgumentParser):
    """A parser for `parse`; its subparsers are of the same kind."""

    def error(self, message: str) -> NoReturn:
        """End the parsing; see `parse`."""
        raise UsageError(self.format_usage(), self.prog, message)


def parse(parser: Parser, words: Sequence[str]) -> argparse.Namespace:
    """The arguments in the words of a command line.

    Raises:
        SystemExit: after `--help` and `--version` with 0; with 2 where the words make no sense, which stderr then
            explains, and with `--json` the JSON object on stdout as well.
    """
    try:
        return parser.parse_args(words)
    except UsageError as err:
        print(err.usage, end="", file=sys.stderr)
        raise SystemExit(
            fail(err, str(err), EXIT_USAGE, as_json=asks_for_json(words), prefix=f"{err.program}: error: ")
        ) from None


def run_command(command: Command, arguments: argparse.Namespace) -> int:
    """Run a command; errors of the tree become one line on stderr and their exit code.

    With `--json`, the error is also the JSON object on stdout, so that a script always finds one there.
    """
    as_json = getattr(arguments, "json", False)
    try:
        with missing_is_named(command.extra):
            with Progress("loading libraries"):
                for module in command.loads:
                    importlib.import_module(module)
            loaded()
            code = command.run(arguments)
        sys.stdout.flush()
        return code
    except BreastsegError as err:
        return fail(err, str(err), err.exit_code, as_json=as_json)
    except MemoryError as err:
        return fail(err, "this machine has too little memory for that; use smaller frames", 4, as_json=as_json)
    except BrokenPipeError:
        _drop_stdout()
        return EXIT_CLOSED_PIPE
    except OSError as err:  # such as a full disk behind stdout
        message = f"the operating system refused: {err}; check space and permissions"
        code = fail(err, message, 1, as_json=as_json)
        _drop_stdout()
        return code


def fail(err: BaseException, message: str, code: int, *, as_json: bool, prefix: str = "error: ") -> int:
    """Say why a command ends, on stderr and where asked for as the JSON object on stdout; returns the exit code."""
    print(f"{prefix}{message}", file=sys.stderr)
    if as_json:
        try:
            print_json({"error": message, "kind": type(err).__name__})
        except OSError:  # a full disk, or nobody reads: stderr has said it
            _drop_stdout()
    return code


def _drop_stdout() -> None:
    """Send what is left in the buffer nowhere, or the interpreter would complain about it once more as it ends."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_json(result: dict[str, Any]) -> None:
    """Print the one JSON object of `--json`, on one line of stdout."""
    print(json.dumps(result), flush=True)
