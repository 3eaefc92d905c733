"""`breastseg export`, the same as `breastseg-export`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from breastseg_deploy.cli.command import BIT_DEPTH_HELP, BIT_DEPTHS, Command, print_json
from breastseg_deploy.engines.flavour import FLAVOURS
from breastseg_deploy.engines.request import is_compute_capability


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="a .safetensors checkpoint, or the word 'demo' for the one that ships along")
    parser.add_argument("--output", required=True, type=Path, metavar="BUNDLE", help="the bundle's folder")
    parser.add_argument("--frames", type=Path, metavar="DIR", help="frames to measure parity on (default: phantoms)")
    parser.add_argument("--bit-depth", type=int, metavar="N", choices=BIT_DEPTHS, help=BIT_DEPTH_HELP)
    parser.add_argument("--precision", choices=("fp32", "fp16", "int8"), default="fp16", help="default: %(default)s")
    parser.add_argument(
        "--calibrate", type=Path, metavar="DIR", help="frames to measure ranges on, for --precision int8"
    )
    parser.add_argument(
        "--cells",
        nargs="+",
        default=[],
        type=Path,
        metavar="DIR",
        help="folders with images/, masks/ and labels/ that choose how masks become cells (else: documented defaults)",
    )
    parser.add_argument(
        "--target",
        action="append",
        default=[],
        choices=tuple(FLAVOURS),
        help="put an engine into the bundle as well; may be given twice (default: none)",
    )
    parser.add_argument(
        "--compute-capability",
        action="extend",
        default=[],
        type=_capabilities,
        metavar="X.Y[,X.Y...]",
        help="of the GPUs to build engines for, e.g. 8.6 (default: this machine's own); other GPUs: tensorrt-rtx only",
    )
    parser.add_argument("--size", type=int, default=512, metavar="PX", help="side of the frames (default: %(default)s)")
    parser.add_argument(
        "--min-dice", type=float, metavar="X", help="stricter Dice for every frame than the default limits"
    )
    parser.add_argument("--no-slide", action="store_true", help="omit the artefact that segments slides, tile by tile")
    parser.add_argument("--force", action="store_true", help="replace the bundle that stands at --output")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def _run(arguments: argparse.Namespace) -> int:
    """Export; prints where bundle and report lie, or the manifest with --json."""
    from breastseg_export.exporter import export_bundle
    from breastseg_export.settings import ExportSettings

    settings = ExportSettings(
        checkpoint=arguments.checkpoint,
        output=arguments.output,
        precision=arguments.precision,
        size_px=arguments.size,
        frames=arguments.frames,
        bit_depth=arguments.bit_depth,
        min_dice=arguments.min_dice,
        force=arguments.force,
        targets=tuple(arguments.target),
        compute_capabilities=tuple(arguments.compute_capability),
        calibrate=arguments.calibrate,
        cells=tuple(arguments.cells),
        slide=not arguments.no_slide,
    )
    manifest = export_bundle(settings, lambda step: print(step, file=sys.stderr))
    for artefact in manifest.artefacts:
        for parity in artefact.parity:
            print(
                f"{artefact.files[0]} in {parity.engine}: mean Dice {parity.mean_dice:.6f}, worst "
                f"{parity.worst_dice:.6f}, largest probability error {parity.largest_probability_error:.1e}"
                f"{parity.change_in_words}",
                file=sys.stderr,
            )
        if not artefact.parity:
            facts = "; ".join(f"{label} {text}" for label, text in artefact.facts)
            print(f"{artefact.files[0]}: {manifest.files[artefact.files[0]].bytes:,} bytes, {facts}", file=sys.stderr)
    if manifest.cells is not None:
        print(f"cells, {manifest.cells.chosen_on}: {manifest.cells.figures.in_words}", file=sys.stderr)
    if arguments.json:
        print_json({"bundle": str(arguments.output), "manifest": manifest.model_dump(mode="json")})
    else:
        print(f"bundle {arguments.output}, report {arguments.output / 'report.html'}")
    return 0


def _capabilities(text: str) -> list[str]:
    """One or more compute capabilities, with commas between them."""
    names = text.split(",")
    for name in names:
        if not is_compute_capability(name):
            raise argparse.ArgumentTypeError(f"a compute capability is written as in 8.6, got {name!r}")
    return names


COMMAND = Command(
    "turn a checkpoint into a verified bundle for the scanner",
    _add_arguments,
    _run,
    loads=("breastseg_export.exporter",),
    extra="export",
)
