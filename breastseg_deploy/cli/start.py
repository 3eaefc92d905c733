"""How a program begins, and ends under Ctrl-C and SIGTERM. It imports next to nothing, and so must who calls it.

Python turns Ctrl-C into an exception wherever it happens to be. Inside an import that is no use: libraries turn it into
errors of their own, or drop it. So while a program is loading, when it has opened and written nothing, Ctrl-C ends the
process at once; from its work on it is an exception, which lets everything be put in order. SIGTERM, by which service
managers and schedulers end a process, is treated alike.
"""

import os
import sys

# Part of the interpreter, where `signal` loads `enum` before it: milliseconds in which Ctrl-C is a traceback.
from _signal import (  # type: ignore[import-not-found]
    SIG_DFL,
    SIG_IGN,
    SIGINT,
    SIGTERM,
    default_int_handler,
    getsignal,
    signal,
)

TYPE_CHECKING = False  # the constant of `typing`, whose import takes longer than all that happens here
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Terminated(KeyboardInterrupt):
    """SIGTERM came: what puts everything in order after Ctrl-C does so after this."""


_ENDS: "dict[type[KeyboardInterrupt], tuple[str, int]]" = {
    KeyboardInterrupt: ("interrupted; nothing is half-written", 130),
    Terminated: ("terminated; nothing is half-written", 143),
}
"""What is said, and what shells report for a process ended by Ctrl-C (128 + SIGINT) or by SIGTERM."""


def started(program: "Callable[[list[str]], int]", arguments: "Sequence[str] | None") -> int:
    """Run a program; whenever Ctrl-C comes, it is one line and exit code 130, and likewise 143 after SIGTERM.

    Args:
        program: takes the words of the command line and returns the exit code; its imports belong inside, and between
            them and its work a call of `loaded`.
        arguments: these words; None where the program is the process, and takes them from the process.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        try:
            if arguments is None:
                _end_at_once_on_signals(words)  # first of all: before it, Ctrl-C is a traceback
                os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # its complaints would stand beside ours
            return program(words)
        finally:
            if arguments is None:
                _ignore_signals()
    except KeyboardInterrupt as err:
        # CPython notes an interrupt that falls into code given as a string, as dataclasses are made of, and `python -m`
        # then ends by SIGINT whatever was caught; code that runs to its end takes the note back.
        exec("")
        return _interrupted(words, err)


def loaded() -> None:
    """The program begins its work: from here on Ctrl-C is a KeyboardInterrupt, and SIGTERM is Terminated."""
    for number, handler in ((SIGINT, default_int_handler), (SIGTERM, _terminate)):
        if isinstance(getsignal(number), _EndsAtOnce):
            signal(number, handler)


def _terminate(*_: object) -> None:
    raise Terminated


class _EndsAtOnce:
    """The handler of a signal while a program is loading: the same words as after it, and the end of the process."""

    def __init__(self, words: "Sequence[str]", kind: type[KeyboardInterrupt]) -> None:
        self._words, self._kind = words, kind

    def __call__(self, *_: object) -> None:
        text, code = _ENDS[self._kind]
        # Not print: the interpreter may be inside one.
        try:
            os.write(2, f"error: {text}\n".encode())
            if asks_for_json(self._words):
                os.write(1, f'{{"error": "{text}", "kind": "{self._kind.__name__}"}}\n'.encode())
        finally:
            os._exit(code)


def asks_for_json(words: "Sequence[str]") -> bool:
    """Whether `--json`, or what argparse takes for it, stands among the words of a command line."""
    return any(len(word) > len("--") and "--json".startswith(word) for word in words)


def _end_at_once_on_signals(words: "Sequence[str]") -> None:
    for number, default, kind in ((SIGINT, default_int_handler, KeyboardInterrupt), (SIGTERM, SIG_DFL, Terminated)):
        if getsignal(number) is default:  # shells let background jobs ignore Ctrl-C
            signal(number, _EndsAtOnce(words, kind))


def _ignore_signals() -> None:
    """What is done is done, and its exit code stands: an interrupt of the interpreter's end would be a traceback."""
    for number in (SIGINT, SIGTERM):
        signal(number, SIG_IGN)


def _interrupted(words: "Sequence[str]", err: KeyboardInterrupt) -> int:
    from breastseg_deploy.cli.command import fail

    kind = Terminated if isinstance(err, Terminated) else KeyboardInterrupt
    return fail(err, *_ENDS[kind], as_json=asks_for_json(words))
