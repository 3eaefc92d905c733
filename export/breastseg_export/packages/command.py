"""`breastseg package`: a written bundle in the form that other software takes."""

from __future__ import annotations

import argparse
from pathlib import Path

from breastseg_deploy.cli.backend import add_public_key_argument
from breastseg_deploy.cli.command import Command, print_json

CONSUMERS = ("bioimageio", "triton", "web", "cpp")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, help="a folder made by breastseg-export")
    parser.add_argument("--for", required=True, choices=CONSUMERS, dest="consumer", help="who is to use it")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="the package's folder")
    add_public_key_argument(parser)
    parser.add_argument("--force", action="store_true", help="replace the package that stands at --output")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def _run(arguments: argparse.Namespace) -> int:
    """Write the package, and say what it is for."""
    from breastseg_deploy.progress import Progress
    from breastseg_export.packages.package import write_package
    from breastseg_export.packages.registry import PACKAGES

    package = PACKAGES[arguments.consumer]
    with Progress(f"packaging {arguments.bundle}"):
        write_package(
            package, arguments.bundle, arguments.output, public_key=arguments.public_key, force=arguments.force
        )
    if arguments.json:
        files = sorted(
            str(path.relative_to(arguments.output)) for path in arguments.output.rglob("*") if path.is_file()
        )
        print_json({"package": str(arguments.output), "for": arguments.consumer, "files": files})
    else:
        print(f"package {arguments.output}, for {package.consumer}")
    return 0


COMMAND = Command(
    "give a bundle the form that other software takes",
    _add_arguments,
    _run,
    loads=("breastseg_export.packages.registry", "breastseg_deploy.segmenter"),
    extra="export",
)
