"""`breastseg watch`: masks of the frames that a scanner writes into a folder, until it is told to stop."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from breastseg_deploy.cli.backend import add_backend_arguments, open_segmenter, told_on_stderr
from breastseg_deploy.cli.command import BIT_DEPTH_HELP, BIT_DEPTHS, Command, print_json

if TYPE_CHECKING:
    from breastseg_deploy.watch import News, Watch

_EVERY_S = 10.0
"""From one line of counters to the next, and from one metrics file to the next."""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, help="a folder made by breastseg-export")
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help="PNG, TIFF and JPEG files that appear in it are frames"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="masks go to DIR/NAME.png, 0 and 255")
    parser.add_argument("--bit-depth", type=int, metavar="N", choices=BIT_DEPTHS, help=BIT_DEPTH_HELP)
    parser.add_argument("--once", action="store_true", help="end when every frame in the folder is done")
    parser.add_argument(
        "--metrics-file", type=Path, metavar="FILE", help="counters as Prometheus reads them, kept up to date"
    )
    add_backend_arguments(parser)
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object a line on stdout; the last: counters"
    )


def _run(arguments: argparse.Namespace) -> int:
    """Watch until SIGINT or SIGTERM; with --once, the exit code is 1 where a frame has no mask."""
    from breastseg_deploy.storage import clear_partials, make_folder
    from breastseg_deploy.watch import Watch

    _check_places(arguments.folder, arguments.output)
    with told_on_stderr(), open_segmenter(arguments.bundle, arguments) as segmenter, ExitStack() as stack:
        make_folder(arguments.output)
        stack.enter_context(_no_other_watch(arguments.output))
        clear_partials(arguments.output)
        desk = _Desk(arguments)
        watch = Watch(segmenter, arguments.folder, arguments.output, bit_depth=arguments.bit_depth, tell=desk.tell)
        with StopAsked() as stop:
            try:
                while not stop.asked and not (arguments.once and (watch.rests or watch.cannot_write)):
                    watch.step()
                    desk.keep_up(watch)
            finally:
                watch.close()
                desk.end(watch)
    _, files = watch.snapshot()
    missing = files["unreadable"] + files["failed"] or not watch.rests
    return 1 if arguments.once and missing else 0


class StopAsked:
    """SIGINT and SIGTERM end the watch after the frames that are under way; a second one ends the process at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopAsked:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:  # a shell's background job ignores SIGINT
                    self._before[number] = signal.signal(number, self._ask)
        return self

    def _ask(self, number: int, _: FrameType | None) -> None:
        self.asked = True
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class _Desk:
    """What is told of a watch: on stderr, as JSON lines, and in the metrics file."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._as_json, self._metrics = arguments.json, arguments.metrics_file
        self._told: object = None
        self._next = 0.0
        self._metrics_fail = False

    def tell(self, news: News) -> None:
        """One thing that happened."""
        if news.error is not None:
            print(f"error: {news.error}", file=sys.stderr, flush=True)
        elif news.kind != "mask":
            print(
                {"writing_again": "masks can be written again", "folder_again": "the folder is back"}[news.kind],
                file=sys.stderr,
                flush=True,
            )
        if self._as_json:
            told = {
                "event": news.kind,
                "frame": news.frame,
                "mask": news.mask,
                "error": news.error,
                "age_s": news.age_s,
            }
            print_json(
                {
                    key: str(value) if isinstance(value, Path) else value
                    for key, value in told.items()
                    if value is not None
                }
            )

    def keep_up(self, watch: Watch) -> None:
        """Counters, where the time for them has come."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _EVERY_S
        self._write_metrics(watch)
        counts, files = watch.snapshot()
        if (counts.submitted, files) != self._told:
            self._told = (counts.submitted, files)
            self._print_counters(watch)

    def end(self, watch: Watch) -> None:
        """The counters, last."""
        self._write_metrics(watch)
        self._print_counters(watch)

    def _print_counters(self, watch: Watch) -> None:
        from breastseg_deploy.exposition import plain

        counts, files = watch.snapshot()
        print(
            f"watch: {files['mask']} masks, {files['found_done']} there before, {files['unreadable']} unreadable, "
            f"{files['failed']} failed, {counts.in_flight} under way; age p95 {counts.latency.p95_s:.2f} s, "
            f"longest {counts.latency.max_s:.2f} s",
            file=sys.stderr,
            flush=True,
        )
        if self._as_json:
            print_json({"event": "counters", "files": files, "stream": plain(counts)})

    def _write_metrics(self, watch: Watch) -> None:
        from breastseg_deploy.errors import OutputError
        from breastseg_deploy.exposition import prometheus_text
        from breastseg_deploy.storage import write_whole

        if self._metrics is None:
            return
        try:
            write_whole(self._metrics, prometheus_text(*watch.snapshot()).encode())
        except OutputError as err:  # masks matter more
            if not self._metrics_fail:
                print(f"error: {err}", file=sys.stderr, flush=True)
            self._metrics_fail = True
        else:
            self._metrics_fail = False


@contextmanager
def _no_other_watch(output: Path) -> Iterator[None]:
    """Hold the output folder for this process: two watches would make each mask twice."""
    from breastseg_deploy.errors import OutputError
    from breastseg_deploy.unfinished import try_lock

    try:
        release = try_lock(output / ".watch.lock")
    except OSError as err:
        reason = (err.strerror or str(err)).lower()
        raise OutputError(f"cannot lock {output}: {reason}; choose another --output") from err
    if release is None:
        raise OutputError(f"another `breastseg watch` writes to {output}; end it, or choose another --output")
    try:
        yield
    finally:
        release()


def _check_places(folder: Path, output: Path) -> None:
    from breastseg_deploy.errors import FrameError, OutputError

    try:
        is_folder = folder.is_dir()
    except OSError as err:
        reason = (err.strerror or str(err)).lower()
        raise FrameError(f"cannot look at {folder}: {reason}; watch another folder, or let it be read") from err
    if not is_folder:
        raise FrameError(f"there is no folder {folder} to watch; make it, or check its name")
    if folder.resolve() == output.resolve():
        raise OutputError(f"masks in {output} would be taken for frames; choose another --output")


COMMAND = Command(
    "masks of the frames that appear in a folder", _add_arguments, _run, loads=("breastseg_deploy.watch",)
)
