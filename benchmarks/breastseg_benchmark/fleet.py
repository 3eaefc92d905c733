"""A fleet on trial: many small slides, workers and driver killed at random, and what Ray costs beside a plain loop.

    python -m breastseg_benchmark.fleet BUNDLE --output DIR [--slides 200] [--workers 3]

Prints one JSON object last. Exit code 1 where an output is missing, was made twice, or differs from one process's.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2

from breastseg_deploy.fleet.ledger import LEDGER
from breastseg_deploy.phantom import phantom_frame

_OF_THE_RUN = ("seconds", "mpx_per_s")
_KILL_EVERY_S = (2.0, 8.0)


def main() -> int:
    """Run the trial."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--slides", type=int, default=200)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--without-ray", action="store_true")
    arguments = parser.parse_args()
    inputs = arguments.output / "inputs"
    inputs.mkdir(parents=True)
    for number in range(arguments.slides):
        cv2.imwrite(str(inputs / f"slide-{number:04d}.tif"), phantom_frame(number, (180, 260)).frame)
    told: dict[str, Any] = {"slides": arguments.slides, "workers": arguments.workers}
    one = [arguments.bundle, inputs, arguments.output / "alone"]
    told["one process"] = _timed(*one)
    fleet = ["--workers", arguments.workers, "--retries", 3]
    told["killed"] = _under_kills([arguments.bundle, inputs, arguments.output / "killed"], fleet, arguments.kills)
    told["fleet"] = _timed(arguments.bundle, inputs, arguments.output / "fleet", *fleet)
    names = ["killed", "fleet"]
    if not arguments.without_ray:
        told["loop, one worker"] = _timed(arguments.bundle, inputs, arguments.output / "loop", "--workers", 1)
        told["ray, one actor"] = _timed(arguments.bundle, inputs, arguments.output / "ray", "--workers", 1, "--ray")
        names += ["loop", "ray"]
    expected = _contents(arguments.output / "alone")
    told["as one process"] = {name: _contents(arguments.output / name) == expected for name in names}
    lines = [json.loads(line) for line in (arguments.output / "killed" / LEDGER).read_text().splitlines()]
    told["lines in the ledger"] = len(lines)
    told["peak memory of a process, MB"] = round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
    print(json.dumps(told))
    held = all(told["as one process"].values()) and [line["state"] for line in lines] == ["done"] * arguments.slides
    return 0 if held else 1


def _words(*words: object) -> list[str]:
    bundle, inputs, output, *more = map(str, words)
    program = [sys.executable, "-m", "breastseg_deploy.cli.main", "segment", bundle, inputs, "--output", output]
    return [*program, "--backend", "onnxruntime", *more]


def _timed(*words: object) -> dict[str, float]:
    """Wall time of a whole command, and of the work alone: from the first result to the last."""
    started = time.monotonic()
    subprocess.run(_words(*words), stdout=subprocess.DEVNULL, check=False)
    took = time.monotonic() - started
    ends = sorted(path.stat().st_mtime for path in Path(str(words[2])).glob("*/result.json"))
    return {"whole_s": round(took, 1), "first_to_last_s": round(ends[-1] - ends[0], 1)}


def _under_kills(places: list[Path], fleet: list[object], kills: int) -> dict[str, int]:
    """Kill workers and driver at random; a driver that is killed is started again."""
    chance, done = random.Random(1), {"workers killed": 0, "drivers killed": 0}
    process = subprocess.Popen(_words(*places, *fleet), stdout=subprocess.DEVNULL)
    for _ in range(kills):
        try:
            process.wait(chance.uniform(*_KILL_EVERY_S))
            break
        except subprocess.TimeoutExpired:
            pass
        workers = _children(process.pid)
        if chance.random() < 0.2 or not workers:
            process.kill()
            process.wait()
            done["drivers killed"] += 1
            process = subprocess.Popen(_words(*places, *fleet), stdout=subprocess.DEVNULL)
        else:
            os.kill(chance.choice(workers), signal.SIGKILL)
            done["workers killed"] += 1
    process.wait()
    return done


def _children(pid: int) -> list[int]:
    """Worker processes of a driver."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(one) for one in found if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes()]
    except OSError:
        return []


def _contents(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("[!.]*/*")):
        content: Any = path.read_bytes()
        if path.name == "result.json":
            content = {key: value for key, value in json.loads(content).items() if key not in _OF_THE_RUN}
        if path.name != "report.html":  # it holds the seconds
            found[str(path.relative_to(folder))] = content
    return found


if __name__ == "__main__":
    sys.exit(main())
