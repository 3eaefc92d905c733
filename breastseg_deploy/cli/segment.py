"""`breastseg segment`: masks of image files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from breastseg_deploy.cli.backend import add_backend_arguments, open_segmenter, told_on_stderr
from breastseg_deploy.cli.command import BIT_DEPTH_HELP, BIT_DEPTHS, Command, print_json

if TYPE_CHECKING:
    from breastseg_deploy.io.images import FrameFile
    from breastseg_deploy.result import Segmentation
    from breastseg_deploy.segmenter import Segmenter


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, help="a folder made by breastseg-export")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE|DIR", help="PNG, TIFF, JPEG, or folders of them")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="masks go to DIR/NAME.png, 0 and 255")
    parser.add_argument("--overlay", action="store_true", help="also DIR/NAME.overlay.png: the frame and the outline")
    parser.add_argument("--bit-depth", type=int, metavar="N", choices=BIT_DEPTHS, help=BIT_DEPTH_HELP)
    add_backend_arguments(parser)
    parser.add_argument("--force", action="store_true", help="write into an output folder that is not empty")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def _run(arguments: argparse.Namespace) -> int:
    """Segment every frame; one that fails is reported at the end and the others are done all the same."""
    from breastseg_deploy.errors import BackendError, FrameError
    from breastseg_deploy.io.images import find_frames
    from breastseg_deploy.progress import followed
    from breastseg_deploy.storage import check_output_folder, clear_partials, make_folder

    files = find_frames(arguments.images)
    check_output_folder(arguments.output, force=arguments.force)
    _refuse_overwriting(files, arguments)
    done: list[dict[str, object]] = []
    failed: list[dict[str, str]] = []
    with told_on_stderr(), open_segmenter(arguments.bundle, arguments) as segment:
        make_folder(arguments.output)
        clear_partials(arguments.output)
        for file in followed(files, "segment", "frames"):
            try:
                done.append(_segment_file(segment, file, arguments))
            except FrameError as err:
                failed.append({"frame": str(file.path), "error": str(err)})
            except BackendError as err:
                failed.append({"frame": str(file.path), "error": f"{file.path}: {err}"})
    for failure in failed:
        print(f"error: {failure['error']}", file=sys.stderr)
    if arguments.gate:
        skipped = [frame["frame"] for frame in done if frame["skipped"]]
        for name in skipped:
            print(f"skipped by the empty-frame gate: {name}", file=sys.stderr)
        print(f"empty-frame gate: {len(skipped)} of {len(done)} frames skipped", file=sys.stderr)
    if arguments.json:
        print_json({"frames": done, "failed": failed, "backend": segment.backend, "gate": segment.gate is not None})
    else:
        print(f"{len(done)} masks in {arguments.output}" + (f", {len(failed)} frames failed" if failed else ""))
    return 1 if failed else 0


def _refuse_overwriting(files: Sequence[FrameFile], arguments: argparse.Namespace) -> None:
    """Refuse an output folder where a result would replace a frame, a ground-truth mask or another result."""
    from breastseg_deploy.errors import OutputError

    used_by = {place.resolve(): "a frame" for file in files for place in (file.path, file.truth or file.path)}
    for file in files:
        for what, target in _targets(file, arguments).items():
            other = used_by.setdefault(target.resolve(), f"the {what} of {file.path}")
            if other != f"the {what} of {file.path}":
                raise OutputError(
                    f"{target} would become the {what} of {file.path} and is {other} already; "
                    "choose another --output, or rename one"
                )


def _targets(file: FrameFile, arguments: argparse.Namespace) -> dict[str, Path]:
    """What is written for one frame, and where to."""
    targets = {"mask": arguments.output / f"{file.name}.png"}
    if arguments.overlay:
        targets["overlay"] = arguments.output / f"{file.name}.overlay.png"
    return targets


def _segment_file(segment: Segmenter, file: FrameFile, arguments: argparse.Namespace) -> dict[str, object]:
    from breastseg_deploy.io.images import overlay, png_bytes, read_rgb
    from breastseg_deploy.storage import write_whole

    rgb = read_rgb(file, segment.manifest.frame.size_px, arguments.bit_depth)
    answer = segment(rgb)
    targets = _targets(file, arguments)
    if arguments.overlay:
        write_whole(targets["overlay"], png_bytes(overlay(rgb, answer.mask)))
    write_whole(targets["mask"], png_bytes(answer.mask * 255))
    return {
        "frame": str(file.path),
        "mask": str(targets["mask"]),
        "cell_pixels": int(answer.mask.sum()),
        **_gate(answer),
        "timings_s": {stage: round(seconds, 6) for stage, seconds in answer.timings.items()},
    }


def _gate(answer: Segmentation) -> dict[str, object]:
    if answer.skipped is None or answer.gate_score is None:
        return {}
    return {"skipped": bool(answer.skipped), "gate_score": float(answer.gate_score)}


COMMAND = Command("segment image files with a bundle", _add_arguments, _run, loads=("breastseg_deploy.segmenter",))
