"""What `breastseg segment` does with frames: images of the bundle's frame size."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from breastseg_deploy.drift import DriftWatch
    from breastseg_deploy.io.images import FrameFile
    from breastseg_deploy.result import Segmentation
    from breastseg_deploy.segmenter import Segmenter


def segment_frames(
    segment: Segmenter, files: Sequence[FrameFile], arguments: argparse.Namespace, watch: DriftWatch | None = None
) -> tuple[list[dict[str, object]], list[dict[str, Any]]]:
    """Segment each frame; what was done, and what failed and why."""
    from breastseg_deploy.errors import BackendError, FrameError, OutputError
    from breastseg_deploy.progress import followed

    done: list[dict[str, object]] = []
    failed: list[dict[str, Any]] = []
    for file in followed(files, "segment", "frames"):
        try:
            done.append(segment_frame_file(segment, file, arguments, watch))
        except (FrameError, BackendError, OutputError) as err:
            text = f"{file.path}: {err}" if isinstance(err, BackendError) else str(err)
            failed.append({"frame": str(file.path), "error": text, "exit_code": err.exit_code})
    return done, failed


def segment_frame_file(
    segment: Segmenter, file: FrameFile, arguments: argparse.Namespace, watch: DriftWatch | None = None
) -> dict[str, object]:
    """Segment one frame and write its mask.

    Returns:
        What `--json` says of it.

    Raises:
        FrameError: the frame cannot be read, or breaks the contract.
        BackendError: the engine failed.
        OutputError: the mask cannot be written.
    """
    from breastseg_deploy.io.images import overlay, png_bytes, read_rgb
    from breastseg_deploy.storage import write_whole

    rgb = read_rgb(file, segment.manifest.frame.size_px, arguments.bit_depth)
    answer = segment(rgb)
    if watch is not None:
        watch.feed(rgb, answer)
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


def refuse_overwriting(files: Sequence[FrameFile], arguments: argparse.Namespace) -> None:
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


def _gate(answer: Segmentation) -> dict[str, object]:
    if answer.skipped is None or answer.gate_score is None:
        return {}
    return {"skipped": bool(answer.skipped), "gate_score": float(answer.gate_score)}


def tell_drift(watch: DriftWatch) -> None:
    """Say on stderr what the drift watch found over all frames; each feature was told as it went out of bounds."""
    if watch.windows == 0:
        print(f"drift watch: nothing was judged, it takes {watch.window} frames", file=sys.stderr)
        return
    told = ", ".join(f"{feature} in {count}" for feature, count in sorted(watch.warnings.items()))
    print(
        f"drift watch: {watch.windows_outside} of {watch.windows} windows of {watch.window} frames outside the limits"
        + (f" ({told})" if told else ""),
        file=sys.stderr,
    )
