"""How a program of this project begins and ends under Ctrl-C. It imports next to nothing, and so must who calls it.

Python turns Ctrl-C into an exception wherever it happens to be. Inside an import that is no use: libraries turn it into
errors of their own, or drop it. So while a program is loading, when it has opened and written nothing, Ctrl-C ends the
process at once; from its work on it is an exception, which lets everything be put in order.
"""

import os
import sys

# Part of the interpreter, where `signal` loads `enum` before it: milliseconds in which Ctrl-C is a traceback.
from _signal import SIG_IGN, SIGINT, default_int_handler, getsignal, signal  # type: ignore[import-not-found]

TYPE_CHECKING = False  # the constant of `typing`, whose import takes longer than all that happens here
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

EXIT_INTERRUPTED = 130
"""What shells report for a process ended by Ctrl-C (128 + SIGINT)."""
INTERRUPTED = "interrupted; nothing is half-written"


def started(program: "Callable[[list[str]], int]", arguments: "Sequence[str] | None") -> int:
    """Run a program; whenever Ctrl-C comes, it is one line and exit code 130.

    Args:
        program: takes the words of the command line and returns the exit code; its imports belong inside, and between
            them and its work a call of `loaded`.
        arguments: these words; None where the program is the process, and takes them from the process.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        try:
            if arguments is None:
                _end_at_once_on_ctrl_c(words)  # first of all: before it, Ctrl-C is a traceback
                os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # its complaints would stand beside ours
            return program(words)
        finally:
            if arguments is None:
                _ignore_ctrl_c()
    except KeyboardInterrupt as err:
        # CPython notes an interrupt that falls into code given as a string, as dataclasses are made of, and `python -m`
        # then ends by SIGINT whatever was caught; code that runs to its end takes the note back.
        exec("")
        return _interrupted(words, err)


def loaded() -> None:
    """The program begins its work: from here on Ctrl-C is a KeyboardInterrupt."""
    if isinstance(getsignal(SIGINT), _EndsAtOnce):
        signal(SIGINT, default_int_handler)


class _EndsAtOnce:
    """The handler of Ctrl-C while a program is loading: the same words as after it, and the end of the process."""

    def __init__(self, words: "Sequence[str]") -> None:
        self._words = words

    def __call__(self, *_: object) -> None:
        # Not print: the interpreter may be inside one.
        try:
            os.write(2, f"error: {INTERRUPTED}\n".encode())
            if asks_for_json(self._words):
                os.write(1, f'{{"error": "{INTERRUPTED}", "kind": "{KeyboardInterrupt.__name__}"}}\n'.encode())
        finally:
            os._exit(EXIT_INTERRUPTED)


def asks_for_json(words: "Sequence[str]") -> bool:
    """Whether `--json`, or what argparse takes for it, stands among the words of a command line."""
    return any(len(word) > len("--") and "--json".startswith(word) for word in words)


def _end_at_once_on_ctrl_c(words: "Sequence[str]") -> None:
    if getsignal(SIGINT) is default_int_handler:  # shells let background jobs ignore it
        signal(SIGINT, _EndsAtOnce(words))


def _ignore_ctrl_c() -> None:
    """What is done is done, and its exit code stands: an interrupt of the interpreter's end would be a traceback."""
    signal(SIGINT, SIG_IGN)


def _interrupted(words: "Sequence[str]", err: KeyboardInterrupt) -> int:
    from breastseg_deploy.cli.command import fail

    return fail(err, INTERRUPTED, EXIT_INTERRUPTED, as_json=asks_for_json(words))
