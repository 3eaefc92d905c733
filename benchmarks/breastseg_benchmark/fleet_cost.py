"""What a fleet itself costs for each input, whatever is done with it: claims, the ledger, and looking at both.

    python -m breastseg_benchmark.fleet_cost --output DIR [--inputs 10000]

One worker in this process settles inputs with which nothing is done. Prints one JSON object last.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from breastseg_benchmark.environment import environment
from breastseg_deploy.cli.command import print_json
from breastseg_deploy.fleet.ledger import LEDGER, Ledger
from breastseg_deploy.fleet.task import Do, Outcome, Task
from breastseg_deploy.fleet.worker import work_through
from breastseg_deploy.storage import make_folder

PARTS = 10


@dataclass
class Nothing:
    """Notes when each input came, in seconds of the processor and of the clock."""

    key: str = "nothing"
    moments: list[tuple[float, float]] = field(default_factory=list)

    @contextmanager
    def open(self) -> Iterator[Do]:
        """Nothing to load."""
        yield self._do

    def _do(self, _: Task) -> Outcome:
        self.moments.append((time.process_time(), time.perf_counter()))
        return Outcome()


def main(words: Sequence[str] | None = None) -> int:
    """Measure it."""
    parser = argparse.ArgumentParser(prog="python -m breastseg_benchmark.fleet_cost", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="a new folder to work in")
    parser.add_argument("--inputs", type=int, default=10_000, help="default: %(default)s")
    arguments = parser.parse_args(words)
    inputs, output, job, where = arguments.output / "inputs", arguments.output / "fleet", Nothing(), environment()
    make_folder(inputs)
    make_folder(output)
    tasks = [Task(f"slide-{number:06d}", inputs / f"slide-{number:06d}") for number in range(arguments.inputs)]
    for task in tasks:
        task.path.touch()
    work_through(tasks, job, output, retries=1)
    while_working = (output / LEDGER).stat().st_size
    Ledger(output).compact()
    step = len(tasks) // PARTS
    marks = job.moments[::step][: PARTS + 1]
    spans = [[(then[clock] - now[clock]) / step for clock in (0, 1)] for now, then in pairwise(marks)]
    print_json(
        {
            "environment": where,
            "inputs": len(tasks),
            "milliseconds an input, of the processor and of the clock, in parts of the list": [
                [round(seconds * 1000, 2) for seconds in span] for span in spans
            ],
            "bytes of the ledger while it works": while_working,
            "bytes of the ledger at the end": (output / LEDGER).stat().st_size,
        }
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
