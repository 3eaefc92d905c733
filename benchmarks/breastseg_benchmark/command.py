"""`breastseg benchmark`: how fast a bundle is here, by which backend, and what it takes."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from breastseg_deploy.cli.command import BIT_DEPTH_HELP, BIT_DEPTHS, Command, print_json


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, help="a folder made by breastseg-export")
    parser.add_argument("--frames", type=Path, metavar="DIR", help="frames to measure on (default: phantoms)")
    parser.add_argument("--bit-depth", type=int, metavar="N", choices=BIT_DEPTHS, help=BIT_DEPTH_HELP)
    parser.add_argument(
        "--backend", action="append", default=[], metavar="NAME", help="may be given again (default: all that run here)"
    )
    parser.add_argument(
        "--rounds", type=_positive, default=30, metavar="N", help="calls of each (default: %(default)s)"
    )
    parser.add_argument(
        "--largest-batch",
        type=int,
        default=8,
        metavar="N",
        help="growth with batches 1 to N (default: %(default)s)",
    )
    parser.add_argument(
        "--growth-frames",
        type=int,
        default=200,
        metavar="N",
        help="to watch memory over (default: %(default)s; 0: none)",
    )
    parser.add_argument(
        "--other-size", action="append", default=[], type=Path, metavar="BUNDLE",
        help="the same checkpoint exported for another frame size, for growth with size; may be given again",
    )  # fmt: skip
    parser.add_argument(
        "--profile", action="store_true", help="where the network's time goes in OpenVINO, by kind of layer"
    )
    parser.add_argument(
        "--threads",
        action="store_true",
        help="one frame by 1, 2 and more threads, and frames side by side, in OpenVINO",
    )
    parser.add_argument("--budgets", type=Path, metavar="FILE", help="hold the run to the budgets of a TOML file")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write an HTML page")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def _run(arguments: argparse.Namespace) -> int:
    """Measure, print tables, write the report; the exit code is 1 where a budget is missed, 4 where nothing runs.

    Raises:
        OutputError: the report cannot be written.
    """
    from breastseg_benchmark.budgets import judge, read_budgets
    from breastseg_benchmark.growth import GrowthPlan
    from breastseg_benchmark.measure import Plan, measure
    from breastseg_benchmark.report import report_html
    from breastseg_benchmark.tables import results_text, verdict_text, verdicts_text
    from breastseg_deploy.storage import check_place, write_whole

    if arguments.report is not None:
        check_place(arguments.report)
    budgets = read_budgets(arguments.budgets) if arguments.budgets is not None else ()
    plan = Plan(
        bundle=arguments.bundle,
        command=shlex.join(["breastseg", *sys.argv[1:]]),
        frames=arguments.frames,
        bit_depth=arguments.bit_depth,
        rounds=arguments.rounds,
        backends=tuple(arguments.backend),
        growth=GrowthPlan(
            batches=tuple(range(1, arguments.largest_batch + 1)),
            sizes=tuple(arguments.other_size),
            frames=arguments.growth_frames,
        ),
        profile=arguments.profile,
        threads=arguments.threads,
    )
    results = measure(plan, lambda step: print(step, file=sys.stderr))
    results = results.model_copy(update={"verdicts": judge(results, budgets)})
    if arguments.report is not None:
        write_whole(arguments.report, report_html(results).encode())
        print(f"report {arguments.report}", file=sys.stderr)
    if arguments.json:
        print_json(results.model_dump(mode="json"))
    else:
        print(results_text(results))
        if results.verdicts:
            print("\n" + verdicts_text(results.verdicts))
    missed = [verdict_text(verdict) for verdict in results.verdicts if verdict.status == "missed"]
    for line in missed:
        print(f"error: {line}", file=sys.stderr)
    if all(row.not_run is not None for row in results.rows):
        print("error: no backend runs here; `breastseg doctor` says what is missing", file=sys.stderr)
        return 4
    return 1 if missed else 0


def _positive(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"expected a number of 1 or more, got {count}")
    return count


COMMAND = Command(
    "measure a bundle on this machine: speed by stages, latency, memory, growth",
    _add_arguments,
    _run,
    loads=("breastseg_benchmark.measure", "psutil", "pynvml", "jinja2", "matplotlib"),
    extra="benchmark",
)
