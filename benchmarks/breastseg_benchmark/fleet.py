"""A fleet on trial: many small slides, workers and driver killed at random, and what Ray costs beside a plain loop.

    python -m breastseg_benchmark.fleet BUNDLE --output DIR [--slides 200] [--workers 3] [--kills 20]

Every file of every slide is compared with that of one process, byte by byte, but for LEFT_OUT and TIMES. Prints one
JSON object last. Exit code 1 where an output is missing, was written twice, or differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from breastseg_benchmark.environment import environment
from breastseg_deploy.cli.command import print_json
from breastseg_deploy.fleet.ledger import LEDGER
from breastseg_deploy.io.images import png_bytes
from breastseg_deploy.phantom import phantom_frame
from breastseg_deploy.progress import Progress
from breastseg_deploy.slide.record import RESULT
from breastseg_deploy.storage import make_folder, write_whole

LEFT_OUT = (LEDGER, "report.html")
"""Names of files that two runs cannot have in common: who did what, and a page that shows how long it took. Hidden
files are claims."""
TIMES = ("seconds", "mpx_per_s")
"""Entries of each slide's result that say how long it took."""
SIDES_PX = (96, 160)
_LOOK_S = 0.2
_SAMPLE_S = 1.0
_DRIVER_SHARE = 0.25
"""Of the kills; the others hit a worker."""


@dataclass
class Peak:
    """The most memory that a command and all processes below it held, looked at once a second.

    Attributes:
        largest_mb: of one process: its highest resident set, as the system keeps account of it (VmHWM).
        together_mb: of all of them, shared pages shared out (PSS).
    """

    largest_mb: float = 0.0
    together_mb: float = 0.0
    _ended: threading.Event = field(default_factory=threading.Event)

    def watch(self, pid: int) -> None:
        """Look until `stop`."""
        while not self._ended.wait(_SAMPLE_S):
            found = [_memory_kb(one) for one in _below(pid)]
            self.largest_mb = max([self.largest_mb, *(peak / 1024 for peak, _ in found)])
            self.together_mb = max(self.together_mb, sum(share for _, share in found) / 1024)

    def stop(self) -> None:
        """Look no more."""
        self._ended.set()


class Command:
    """`breastseg segment` over all inputs into one folder, in a process of its own.

    Args:
        bundle: of any frame size.
        inputs: their folder.
        output: of the results.
        words: more of its command line.
    """

    def __init__(self, bundle: Path, inputs: Path, output: Path, *words: object) -> None:
        self.output = output
        program = [sys.executable, "-m", "breastseg_deploy.cli.main", "segment", bundle, inputs, "--output", output]
        self._words = list(map(str, [*program, "--backend", "onnxruntime", *words]))

    def start(self) -> subprocess.Popen[bytes]:
        """Begin, or go on."""
        return subprocess.Popen(
            self._words, stdout=subprocess.DEVNULL, env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
        )

    def results(self) -> dict[str, tuple[int, int]]:
        """Of each slide that is done, which file its result is: another one would have been written a second time."""
        return {
            path.parent.name: ((state := path.stat()).st_ino, state.st_mtime_ns)
            for path in self.output.glob(f"[!.]*/{RESULT}")
        }

    def timed(self) -> dict[str, Any]:
        """Run it to its end.

        Returns:
            Seconds of the whole; of the work alone, from the first result to the last; of the start, until the first
            result; memory. With a ledger, `besides`: time of the work that no slide took, as a share of what they took,
            for one worker alone.
        """
        started, began = time.monotonic(), time.time()
        process, peak = self.start(), Peak()
        watch = threading.Thread(target=peak.watch, args=(process.pid,), daemon=True)
        watch.start()
        process.wait()
        whole = time.monotonic() - started
        peak.stop()
        watch.join()
        ends = sorted(modified / 1e9 for _, modified in self.results().values())
        work = ends[-1] - ends[0]
        told: dict[str, Any] = {
            "whole_s": round(whole, 1), "to_first_result_s": round(ends[0] - began, 1),
            "first_to_last_s": round(work, 1),
            "largest_process_mb": round(peak.largest_mb), "together_mb": round(peak.together_mb),
        }  # fmt: skip
        if (self.output / LEDGER).exists():
            seconds = [line["seconds"] for line in ledger_lines(self.output)]
            # The first result was written at the end of its own slide, so its seconds lie before the work begins.
            told["besides"] = round(work / (sum(seconds) - seconds[0]) - 1, 3)
        return told


def ledger_lines(output: Path) -> list[dict[str, Any]]:
    """All lines, in order."""
    return [json.loads(line) for line in (output / LEDGER).read_text().splitlines()]


def run_under_kills(command: Command, slides: int, kills: int) -> dict[str, Any]:
    """Run a fleet to its end, and kill a worker or the driver whenever some more slides are done.

    Moments are counted in slides, not in seconds: on a busy machine no worker would live long enough to do one.

    Returns:
        How many were killed, and results that were written a second time.
    """
    chance, seen, told = random.Random(1), dict[str, tuple[int, int]](), {"workers killed": 0, "drivers killed": 0}
    moments = sorted(chance.sample(range(1, slides), kills))
    twice: set[str] = set()
    process = command.start()
    with Progress("a fleet under kills", slides, "slides") as progress:
        while process.poll() is None:
            time.sleep(_LOOK_S * chance.random())
            now = command.results()
            twice |= {name for name, file in seen.items() if now.get(name) != file}
            progress.update(len(now) - len(seen))
            seen = now | seen
            if not moments or len(now) < moments[0]:
                continue
            moments.pop(0)
            workers = [one for one in _below(process.pid) if b"spawn_main" in _command_line(one)]
            if chance.random() < _DRIVER_SHARE or not workers:
                process.kill()
                process.wait()
                told["drivers killed"] += 1
                process = command.start()
            else:
                os.kill(chance.choice(workers), signal.SIGKILL)
                told["workers killed"] += 1
    return {**told, "exit code": process.returncode, "written twice": sorted(twice)}


def contents(output: Path) -> dict[str, str]:
    """SHA-256 of every file that is compared, by its name inside the output."""
    return {
        str(path.relative_to(output)): hashlib.sha256(_compared(path)).hexdigest()
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.name not in LEFT_OUT and not path.relative_to(output).parts[0].startswith(".")
    }


def _compared(path: Path) -> bytes:
    """A file's bytes; of a result, all but its times."""
    content = path.read_bytes()
    if path.name != RESULT:
        return content
    return json.dumps({name: value for name, value in json.loads(content).items() if name not in TIMES}).encode()


def write_slides(folder: Path, count: int) -> int:
    """Phantoms of random sizes, none of a frame's; gives their bytes together."""
    make_folder(folder)
    chance, total = random.Random(0), 0
    for number in range(count):
        size_px = chance.randint(*SIDES_PX), chance.randint(*SIDES_PX)
        content = png_bytes(phantom_frame(number, size_px).frame)
        write_whole(folder / f"slide-{number:04d}.png", content)
        total += len(content)
    return total


def _below(pid: int) -> list[int]:
    """A process and all below it that live."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(one for child in children for one in _below(int(child)))]


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _memory_kb(pid: int) -> tuple[int, int]:
    """Highest resident set, and share of memory now."""
    try:
        status, rollup = Path(f"/proc/{pid}/status").read_text(), Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0, 0
    found = re.search(r"VmHWM:\s+(\d+)", status), re.search(r"^Pss:\s+(\d+)", rollup, re.MULTILINE)
    peak, share = (int(one[1]) if one else 0 for one in found)
    return peak, share


def main(words: Sequence[str] | None = None) -> int:
    """Run the trial."""
    parser = argparse.ArgumentParser(prog="python -m breastseg_benchmark.fleet", description=__doc__)
    parser.add_argument("bundle", type=Path, help="best one for small frames: the trial is about the fleet")
    parser.add_argument("--output", type=Path, required=True, help="a new folder to work in")
    parser.add_argument("--slides", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--kills", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--without-ray", action="store_true")
    arguments = parser.parse_args(words)
    inputs = arguments.output / "inputs"

    def command(name: str, *more: object) -> Command:
        return Command(arguments.bundle, inputs, arguments.output / name, *more)

    told: dict[str, Any] = {"environment": environment(), "slides": arguments.slides, "workers": arguments.workers}

    def tell(what: str, found: Any) -> None:
        told[what] = found
        print(f"{what}: {found}", file=sys.stderr, flush=True)

    tell("bytes read", write_slides(inputs, arguments.slides))
    tell("one process", command("alone").timed())
    expected = contents(arguments.output / "alone")
    tell("bytes written", sum((arguments.output / "alone" / name).stat().st_size for name in expected))
    killed = command("killed", "--workers", arguments.workers, "--retries", 3)
    tell("under kills", run_under_kills(killed, arguments.slides, arguments.kills))
    names = ["killed", "loop"]
    tell("loop, one worker", command("loop", "--workers", 1).timed())
    if not arguments.without_ray:
        tell("ray, one actor", command("ray", "--workers", 1, "--ray").timed())
        names.append("ray")
    told["files compared"], told["left out"] = len(expected), LEFT_OUT
    told["as one process"] = {name: contents(arguments.output / name) == expected for name in names}
    states = {name: [line["state"] for line in ledger_lines(arguments.output / name)] for name in names}
    told["every slide done, one line each"] = {name: of == ["done"] * arguments.slides for name, of in states.items()}
    print_json(told)
    held = [*told["as one process"].values(), *told["every slide done, one line each"].values()]
    return int(not all(held) or bool(told["under kills"]["written twice"]))


if __name__ == "__main__":
    sys.exit(main())
