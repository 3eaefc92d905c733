"""`breastseg gpu-check`: what this machine's GPU makes of the GPU path."""

from __future__ import annotations

import argparse
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
    """Run the steps; gpu-check.json and gpu-check.md are written after each. The exit code is 3 where one failed.

    Raises:
        ArgumentError, MachineError, BundleError: see `_bundle_to_check`.
        OutputError: the folder cannot be made, or a file not written.
    """
    from collections.abc import Mapping
    from datetime import UTC, datetime
    from typing import Any

    from breastseg_benchmark.gpu_check.page import write_report
    from breastseg_benchmark.gpu_check.runner import run_steps
    from breastseg_benchmark.gpu_check.step import STEPS, Finding, Settings
    from breastseg_deploy.storage import make_folder

    bundle, output, date = _bundle_to_check(arguments.bundle), arguments.output, datetime.now(UTC).date().isoformat()
    make_folder(output)

    def written(found: Mapping[str, Finding]) -> dict[str, Any]:
        return write_report(output, found, date)

    settings = Settings(str(bundle.absolute()), str(output.absolute()))
    steps = [step for step in STEPS if not arguments.step or step.name in arguments.step]
    found = run_steps(steps, settings, lambda line: print(line, file=sys.stderr, flush=True), keep=written)
    if arguments.json:
        print_json(written(found))
    return 3 if any(finding.verdict == "failed" for finding in found.values()) else 0


def _bundle_to_check(named: Path | None) -> Path:
    """The bundle's place, once it is sure that a step on a GPU could begin with it.

    Raises:
        ArgumentError: no bundle is named.
        MachineError: there is no GPU, or CuPy is not installed.
        BundleError: the bundle is missing, incomplete or altered.
    """
    import os

    from breastseg_deploy.bundle import Bundle
    from breastseg_deploy.errors import ArgumentError, MachineError
    from breastseg_deploy.extras import require_installed
    from breastseg_deploy.nvidia import NoGpu, look_for_gpu

    place = named or os.environ.get(BUNDLE_VARIABLE)
    if not place:
        raise ArgumentError(f"name a bundle, or set {BUNDLE_VARIABLE}: breastseg-export demo --output DIR makes one")
    gpu = look_for_gpu()
    if isinstance(gpu, NoGpu):
        raise MachineError(f"gpu-check needs an NVIDIA GPU: {gpu.reason}")
    require_installed("cupy", "gpu")
    return Bundle.open(place).path


COMMAND = Command("the first ten minutes on a machine with a GPU", _add_arguments, _run)
