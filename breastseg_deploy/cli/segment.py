"""`breastseg segment`: masks of frames, and slides with their cells."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from breastseg_deploy.cli.backend import add_backend_arguments, open_segmenter, told_on_stderr
from breastseg_deploy.cli.command import BIT_DEPTH_HELP, BIT_DEPTHS, Command, print_json
from breastseg_deploy.cli.segment_fleet import add_fleet_arguments, asks_for_fleet, run_fleet, with_lists
from breastseg_deploy.cli.segment_frames import refuse_overwriting, segment_frames, tell_drift
from breastseg_deploy.cli.segment_slides import add_slide_arguments, refuse_slide_arguments, segment_slides

EXIT_UNCERTIFIED = 3
"""A slide's certificate lies over its bundle's limit; its files are written all the same."""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, help="a folder made by breastseg-export")
    parser.add_argument(
        "images",
        type=Path,
        nargs="+",
        metavar="IMAGE|DIR",
        help="frames of the bundle's size, slides, folders of them, .txt lists of paths",
    )
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="DIR",
        help="a frame's mask is DIR/NAME.png, a slide's folder DIR/NAME",
    )
    parser.add_argument("--overlay", action="store_true", help="also DIR/NAME.overlay.png: the frame and the outline")
    parser.add_argument("--bit-depth", type=int, metavar="N", choices=BIT_DEPTHS, help=BIT_DEPTH_HELP)
    add_slide_arguments(parser)
    add_fleet_arguments(parser)
    parser.add_argument("--drift", action="store_true", help="say where the frames are unlike those of the export")
    add_backend_arguments(parser)
    parser.add_argument("--force", action="store_true", help="write into an output folder that is not empty")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def _run(arguments: argparse.Namespace) -> int:
    """Segment every frame and slide; one that fails is reported at the end, the others are done all the same."""
    from breastseg_deploy.bundle import Bundle
    from breastseg_deploy.drift import DriftWatch
    from breastseg_deploy.errors import ArgumentError, BreastsegError
    from breastseg_deploy.io.inputs import sort_inputs
    from breastseg_deploy.storage import check_output_folder, clear_partials, make_folder

    bundle = Bundle.open(arguments.bundle, arguments.public_key)
    inputs = sort_inputs(with_lists(arguments.images), bundle.manifest.frame.size_px)
    if arguments.drift and (asks_for_fleet(arguments) or inputs.slides):
        raise ArgumentError("--drift watches frames that one process segments; omit it for slides and for a fleet")
    refuse_slide_arguments(inputs.frames, arguments)
    refuse_overwriting(inputs.frames, arguments)
    if asks_for_fleet(arguments):
        check_output_folder(arguments.output, force=True)
        return run_fleet(bundle, inputs, arguments)
    # A slide's folder says itself whether a run may go on in it; a frame's mask cannot.
    check_output_folder(arguments.output, force=arguments.force or not inputs.frames)
    with told_on_stderr(), open_segmenter(bundle, arguments) as segment:
        watch = DriftWatch(segment.manifest) if arguments.drift else None
        make_folder(arguments.output)
        clear_partials(arguments.output)
        done, failed = segment_frames(segment, inputs.frames, arguments, watch)
        slides, failed_slides = segment_slides(segment, inputs.slides, arguments)
    for failure in (*failed, *failed_slides):
        print(f"error: {failure['error']}", file=sys.stderr)
    if arguments.gate:
        skipped = [frame["frame"] for frame in done if frame["skipped"]]
        for name in skipped:
            print(f"skipped by the empty-frame gate: {name}", file=sys.stderr)
        print(f"empty-frame gate: {len(skipped)} of {len(done)} frames skipped", file=sys.stderr)
    if watch is not None:
        tell_drift(watch)
    if arguments.json:
        told = {"frames": done, "slides": slides, "failed": [*failed, *failed_slides]}
        drift = {} if watch is None else {"drift": watch.summary()}
        print_json({**told, "backend": segment.backend, "gate": segment.gate is not None, **drift})
    else:
        counted = [(done, "masks")] if done or not slides else []
        counted += [(slides, "slides")] if slides else []
        found = ", ".join(f"{len(some)} {what}" for some, what in counted)
        print(f"{found} in {arguments.output}{_failures(failed, failed_slides)}")
    if failures := [*failed, *failed_slides]:
        codes = {failure["exit_code"] for failure in failures}
        return codes.pop() if len(codes) == 1 and not (done or slides) else BreastsegError.exit_code
    return 0 if all(slide["certificate"]["passed"] for slide in slides) else EXIT_UNCERTIFIED


def _failures(frames: Sequence[object], slides: Sequence[object]) -> str:
    counted = [(frames, "frames"), (slides, "slides")]
    return "".join(f", {len(some)} {what} failed" for some, what in counted if some)


COMMAND = Command("segment image files with a bundle", _add_arguments, _run, loads=("breastseg_deploy.segmenter",))
