"""What `breastseg segment` does with slides: images that are not of the bundle's frame size."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from breastseg_deploy.io.images import FrameFile
    from breastseg_deploy.io.open_slide import Slide
    from breastseg_deploy.segmenter import Segmenter
    from breastseg_deploy.slide.result import SlideResult

WRITE = ("ome-tiff", "geojson", "csv")


def add_slide_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what says how a slide is read and what is written of it."""
    slides = parser.add_argument_group("slides", "images of any other size than the bundle's; docs/slides.md")
    slides.add_argument("--channel", metavar="NAME|N", help="which of several channels")
    slides.add_argument(
        "--window",
        type=low_and_high,
        metavar="LOW,HIGH",
        help="values of 16 bit that become black and white, linear between",
    )
    slides.add_argument("--mpp", type=float, metavar="UM", help="pixel size in micrometres, where the file states none")
    slides.add_argument("--rescale", action="store_true", help="resample to the pixel size of the bundle")
    slides.add_argument(
        "--write",
        type=_names,
        default=WRITE,
        metavar="KIND[,KIND...]",
        help="ome-tiff, geojson, csv, dicom-seg; default: ome-tiff,geojson,csv",
    )
    slides.add_argument("--every-tile", action="store_true", help="skip no tile, however empty it looks")


def refuse_slide_arguments(frames: Sequence[FrameFile], arguments: argparse.Namespace) -> None:
    """Refuse what says how a slide is read where an image is of the frame's size, and would be segmented without it.

    Raises:
        ArgumentError: --channel, --window, --mpp or --rescale, and at least one frame.
    """
    from breastseg_deploy.errors import ArgumentError

    asked = [f"--{name}" for name in ("channel", "window", "mpp", "rescale") if getattr(arguments, name)]
    if asked and frames:
        raise ArgumentError(
            f"{' and '.join(asked)} would not change how {frames[0].path} is read: an image of the bundle's frame size "
            "is a frame (16 bit: --bit-depth); segment frames apart from slides, without it"
        )


def segment_slides(
    segment: Segmenter, slides: Sequence[Path], arguments: argparse.Namespace
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Segment each slide into its own folder; one that fails does not stop the others.

    Returns:
        What was done, and what failed and why.
    """
    from breastseg_deploy.errors import BreastsegError

    done: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    for path in slides:
        try:
            result = segment_slide_file(segment, path, arguments)
            already = {"done": " (found done)", "resumed": " (resumed)"}.get(result.resumed, "")
            print(f"{path}: a slide, {result.folder}{already}: {result.summary}", file=sys.stderr)
            done.append({"slide": str(path), "folder": str(result.folder), "resumed": result.resumed, **result.content})
        except BreastsegError as err:
            text = str(err) if str(path) in str(err) else f"{path}: {err}"
            failed.append({"slide": str(path), "error": text, "exit_code": err.exit_code})
    return done, failed


def segment_slide_file(segment: Segmenter, path: Path, arguments: argparse.Namespace) -> SlideResult:
    """Segment one slide into its own folder.

    Raises:
        BreastsegError: see `Segmenter.slide` and `open_slide`.
    """
    with _opened(path, segment, arguments) as slide:
        folder = arguments.output / slide.name
        return segment.slide(slide, folder, write=arguments.write, skip_empty=not arguments.every_tile)


def _opened(path: Path, segment: Segmenter, arguments: argparse.Namespace) -> Slide:
    from breastseg_deploy.errors import SlideError
    from breastseg_deploy.io.open_slide import open_slide

    bundle_um = segment.manifest.frame.pixel_size_um
    if arguments.rescale and bundle_um is None:
        raise SlideError("the bundle states no pixel size, so nothing can be rescaled to it; omit --rescale")
    return open_slide(
        path,
        channel=arguments.channel,
        bit_depth=arguments.bit_depth if arguments.bit_depth and _is_16_bit(path) else None,
        window=arguments.window,
        pixel_size_um=arguments.mpp,
        rescale_to_um=bundle_um if arguments.rescale else None,
    )


def _is_16_bit(path: Path) -> bool:
    """Whether a bit depth concerns it: 8-bit images beside 16-bit ones need none, as with frames."""
    from breastseg_deploy.io.open_reader import open_reader

    reader = open_reader(path)
    try:
        return reader.describe().dtype == "uint16"
    finally:
        reader.close()


def low_and_high(text: str) -> tuple[float, float]:
    """A window from the command line."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError as err:
        raise argparse.ArgumentTypeError(f"a window is written LOW,HIGH as in 0,4095, got {text!r}") from err
    return low, high


def _names(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(",") if part)
