"""`breastseg doctor`: what this machine can run, and what to install for more."""

from __future__ import annotations

import argparse

from breastseg_deploy.cli.command import Command, print_json


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def _run(arguments: argparse.Namespace) -> int:
    """Print one line per capability; the exit code is 4 where no backend can run."""
    from dataclasses import asdict

    from breastseg_deploy.capabilities import capabilities
    from breastseg_deploy.progress import Progress

    with Progress("looking at this machine"):
        found = capabilities()
    runs = any(capability.usable for capability in found if capability.kind == "backend")
    if arguments.json:
        print_json({"capabilities": [asdict(capability) for capability in found], "can_segment": runs})
    else:
        for capability in found:
            mark = "yes" if capability.usable else "no"
            print(f"{capability.name:26}{mark:5}{capability.detail}")
            if not capability.usable and capability.remedy:
                print(f"{'':31}to have it: {capability.remedy}")
    return 0 if runs else 4


COMMAND = Command(
    "what this machine can run, and what to install for more",
    _add_arguments,
    _run,
    loads=("breastseg_deploy.capabilities",),
)
