"""`breastseg verify`: can this bundle be trusted on this machine?"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from breastseg_deploy.cli.backend import add_backend_arguments, open_segmenter, told_on_stderr
from breastseg_deploy.cli.command import BIT_DEPTH_HELP, BIT_DEPTHS, Command, print_json

if TYPE_CHECKING:
    from breastseg_deploy.gate_check import GateCheck
    from breastseg_deploy.segmenter import Segmenter
    from breastseg_deploy.selftest import GoldenResult
    from breastseg_deploy.verify import FrameCheck


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, help="a folder made by breastseg-export")
    parser.add_argument("--frames", type=Path, metavar="DIR", help="also check on these frames (masks/ beside images/)")
    parser.add_argument("--bit-depth", type=int, metavar="N", choices=BIT_DEPTHS, help=BIT_DEPTH_HELP)
    add_backend_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def _run(arguments: argparse.Namespace) -> int:
    """Check files, goldens and, where given, frames; the exit code is 3 where a limit is missed."""
    from dataclasses import asdict

    from breastseg_deploy.errors import ParityError
    from breastseg_deploy.gate_check import check_gate
    from breastseg_deploy.io.images import find_frames
    from breastseg_deploy.progress import Progress
    from breastseg_deploy.verify import check_frames

    with told_on_stderr(), open_segmenter(arguments.bundle, arguments) as segment:
        print(f"files: {len(segment.manifest.files)} match the manifest", file=sys.stderr)
        with Progress("goldens"):
            goldens = segment.self_test()
        for golden in goldens:
            _tell_golden(golden)
        tile = _golden_tile(segment)
        result: dict[str, Any] = {
            "goldens": [asdict(golden) for golden in goldens],
            "golden_tile": None if tile is None else asdict(tile),
            "backend": segment.backend,
            "gate": segment.gate is not None,
            "signed_by": segment.bundle.signed_by,
        }
        contradiction = ""
        if arguments.frames is not None:
            files = find_frames([arguments.frames])
            with Progress("verify", len(files), "frames") as progress:
                if arguments.gate:
                    gate = check_gate(segment, files, arguments.bit_depth, progress.update)
                    result["skipping"] = asdict(gate)
                    contradiction = gate.contradiction
                    _tell_gate(gate)
                else:
                    check = check_frames(segment, files, arguments.bit_depth, progress.update)
                    result["frames"] = asdict(check)
                    _tell(check)
        elif arguments.gate:
            print("what the gate skips was tried on the goldens alone: give --frames of your own", file=sys.stderr)
    if contradiction:
        print(f"error: {contradiction}", file=sys.stderr)
        if arguments.json:
            print_json({**result, "error": contradiction, "kind": ParityError.__name__})
        return ParityError.exit_code
    print_json(result) if arguments.json else print(f"{arguments.bundle} is verified on this machine")
    return 0


def _tell_golden(golden: GoldenResult) -> None:
    print(
        f"{golden.name}: Dice {golden.dice:.6f}, {golden.flipped_ppm:.1f} ppm flipped, "
        f"largest probability error {golden.largest_probability_error:.1e}",
        file=sys.stderr,
    )


def _golden_tile(segment: Segmenter) -> GoldenResult | None:
    """The slide artefact's golden, where the bundle has one and this backend segments slides; else it says why not."""
    from breastseg_deploy.bundle import SLIDE
    from breastseg_deploy.progress import Progress

    if segment.manifest.artefact(SLIDE) is None:
        print("no golden tile: the bundle holds no slide artefact", file=sys.stderr)
        return None
    if segment.record.open_tiles is None:
        print(f"the golden tile was not run: {segment.backend} segments no slides", file=sys.stderr)
        return None
    with Progress("golden tile"):
        tile = segment.self_test_slides()
    _tell_golden(tile)
    return tile


def _tell(check: FrameCheck) -> None:
    from breastseg_deploy.verify import LEAST_JUDGED

    print(f"{check.frames} frames, the other way being {check.against or 'none'}", file=sys.stderr)
    figures = {
        "worst Dice between the two ways through the bundle": check.agreement_worst_dice,
        "mean Dice between the two ways through the bundle": check.agreement_mean_dice,
        "the same, frames with cells": check.agreement_mean_dice_with_cells,
        "Dice against ground truth, frames with cells": check.truth_dice_with_cells,
        "Dice against ground truth, all frames": check.truth_dice_all,
        "its change from the other way to this one, frames with cells": check.truth_dice_change_with_cells,
        "its change from the other way to this one, all frames": check.truth_dice_change_all,
        "share of empty frames with false positives": check.false_positive_frames,
    }
    for what, figure in figures.items():
        print(f"  {what}: " + ("nothing to measure it on" if figure is None else f"{figure:.6f}"), file=sys.stderr)
    if check.truth_dice_change_all is not None and not check.change_judged:
        print(
            f"  that change was not held to its limit: it takes at least {LEAST_JUDGED} frames whose masks hold cells",
            file=sys.stderr,
        )


def _tell_gate(check: GateCheck) -> None:
    judge = "ground truth" if check.by_truth else "the same backend without its gate"
    print(
        f"{check.frames} frames, {check.frames_with_cells} with cells by {judge}: {check.skipped} skipped, "
        f"{check.missed} of them with cells ({check.missed_pixels} cell pixels)",
        file=sys.stderr,
    )
    print(
        f"  mean time of a frame {check.mean_seconds:.4f} s, without the gate {check.mean_seconds_without:.4f} s: "
        f"ratio {check.mean_seconds / check.mean_seconds_without:.3f}",
        file=sys.stderr,
    )
    for name in check.missed_frames:
        print(f"  skipped with cells: {name}", file=sys.stderr)


COMMAND = Command("check a bundle on this machine", _add_arguments, _run, loads=("breastseg_deploy.verify",))
