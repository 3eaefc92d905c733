"""`breastseg gpu-check`: what this machine's GPU makes of the GPU path."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from breastseg_deploy.cli.command import Command, print_json

BUNDLE_VARIABLE = "BREASTSEG_DEMO_BUNDLE"


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    from breastseg_benchmark.gpu_check.step import STEPS

    names = [step.name for step in STEPS]
    parser.add_argument("bundle", type=Path, nargs="?", help=f"made elsewhere (default: {BUNDLE_VARIABLE})")
    parser.add_argument("--output", type=Path, default=Path("gpu-check"), metavar="DIR", help="(default: %(default)s)")
    parser.add_argument("--step", action="append", choices=names, metavar="NAME", help=f"only: {', '.join(names)}")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def _run(arguments: argparse.Namespace) -> int:
    """Run the steps, write gpu-check.json and gpu-check.md; the exit code is 3 where a step failed.

    Raises:
        ArgumentError: no bundle is named.
        MachineError: CuPy is not installed: no step on a GPU could begin.
        OutputError: the folder cannot be made, or a file not written.
    """
    import os
    from datetime import UTC, datetime

    from breastseg_benchmark.gpu_check.page import page
    from breastseg_benchmark.gpu_check.runner import run_steps
    from breastseg_benchmark.gpu_check.step import STEPS, Settings
    from breastseg_deploy.errors import ArgumentError
    from breastseg_deploy.extras import require_installed
    from breastseg_deploy.storage import make_folder, write_whole

    bundle = arguments.bundle or os.environ.get(BUNDLE_VARIABLE)
    if not bundle:
        raise ArgumentError(f"name a bundle, or set {BUNDLE_VARIABLE}: breastseg-export demo --output DIR makes one")
    require_installed("cupy", "gpu")
    make_folder(arguments.output)
    settings = Settings(str(Path(bundle).absolute()), str(arguments.output.absolute()))
    steps = [step for step in STEPS if not arguments.step or step.name in arguments.step]
    found = run_steps(steps, settings, lambda line: print(line, file=sys.stderr, flush=True))
    date = datetime.now(UTC).date().isoformat()
    result = {"date": date, "steps": {name: finding.as_json() for name, finding in found.items()}}
    write_whole(arguments.output / "gpu-check.json", json.dumps(result, indent=1).encode())
    write_whole(arguments.output / "gpu-check.md", page(found, date).encode())
    if arguments.json:
        print_json(result)
    return 3 if any(finding.verdict == "failed" for finding in found.values()) else 0


COMMAND = Command("the first ten minutes on a machine with a GPU", _add_arguments, _run)
