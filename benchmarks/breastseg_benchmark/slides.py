"""A slide by this package, by MONAI's sliding window on PyTorch, and by a plain loop over frames, in turn.

    python -m breastseg_benchmark.slides BUNDLE CHECKPOINT SLIDE --output DIR [--window LOW,HIGH] [--rounds 3]

Prints one JSON object last. The package's time holds reading, cells and files; its certificate is told beside it, since
the others have none. Theirs holds preprocessing and network alone, on an image that lies in memory. What another place
of the grid changes is measured for all three. For frames of 512 px, as the paper's.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers.inferer import SlidingWindowInferer
from numpy.typing import NDArray

from breastseg_benchmark.environment import environment
from breastseg_benchmark.process import Timed, in_turn, seconds_of
from breastseg_benchmark.results import Distribution, Ratio
from breastseg_deploy.cli.command import print_json
from breastseg_deploy.cli.segment_slides import low_and_high
from breastseg_deploy.io.open_slide import open_slide
from breastseg_deploy.metrics import flipped_ppm
from breastseg_deploy.preprocess.tensor import network_input
from breastseg_deploy.progress import Progress
from breastseg_deploy.segmenter import Segmenter
from breastseg_train.network.checkpoint import load_checkpoint

FRAME_PX = 512
MOVED_PX = 128
INSIDE_PX = 64
"""Nothing is compared nearer to the border of the moved image: there it reflects another neighbourhood."""
OURS, MONAI, LOOP = "breastseg", "MONAI, PyTorch", "plain loop, ONNX Runtime"

Segment = Callable[[NDArray[np.uint8]], NDArray[np.bool_]]
"""(H, W, 3) uint8 to a mask (H, W)."""


def sliding_window(checkpoint: str) -> Segment:
    """MONAI's inferer as its bundles set it for large images: a quarter of overlap, blended by a Gaussian."""
    loaded = load_checkpoint(checkpoint)
    model, gabor = loaded.model.eval(), loaded.model.architecture.gabor
    inferer = SlidingWindowInferer(FRAME_PX, sw_batch_size=1, overlap=0.25, mode="gaussian")

    def segment(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
        with torch.inference_mode():
            logits = inferer(torch.from_numpy(network_input(image[np.newaxis], gabor)), model)
        assert isinstance(logits, torch.Tensor)
        return np.asarray(logits[0, 0].sigmoid().numpy() >= loaded.threshold)

    return segment


def plain_loop(segment_frame: Segmenter) -> Segment:
    """Frames side by side, as a script does it that knows nothing of seams."""

    def segment(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
        height, width = image.shape[:2]
        padded = np.pad(image, ((0, -height % FRAME_PX), (0, -width % FRAME_PX), (0, 0)), mode="reflect")
        mask = np.zeros(padded.shape[:2], np.bool_)
        for top in range(0, height, FRAME_PX):
            for left in range(0, width, FRAME_PX):
                place = np.s_[top : top + FRAME_PX, left : left + FRAME_PX]
                mask[place] = segment_frame(np.ascontiguousarray(padded[place])).mask
        return mask[:height, :width]

    return segment


def moved_grid_ppm(segment: Segment, image: NDArray[np.uint8]) -> float:
    """Flipped pixels where the grid begins 128 px further down and right, in parts per million of what both see."""
    here = segment(image)[MOVED_PX:, MOVED_PX:]
    moved = segment(np.ascontiguousarray(image[MOVED_PX:, MOVED_PX:]))
    return flipped_ppm(here[INSIDE_PX:, INSIDE_PX:], moved[INSIDE_PX:, INSIDE_PX:])


def main(words: Sequence[str] | None = None) -> int:
    """Measure it."""
    parser = argparse.ArgumentParser(prog="python -m breastseg_benchmark.slides", description=__doc__)
    parser.add_argument("bundle", type=Path, help="with a slide artefact, for frames of 512 px")
    parser.add_argument("checkpoint", help="that it was exported from")
    parser.add_argument("slide", type=Path)
    parser.add_argument("--output", type=Path, required=True, help="a new folder for the results")
    parser.add_argument("--window", type=low_and_high, help="LOW,HIGH: of 16-bit values")
    parser.add_argument("--backend", default="openvino", help="of this package (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each (default: %(default)s)")
    arguments = parser.parse_args(words)
    where = environment()
    results: list[Mapping[str, Any]] = []
    with (
        Segmenter.open(arguments.bundle, "onnxruntime") as frames,
        open_slide(arguments.slide, window=arguments.window) as slide,
        Segmenter.open(arguments.bundle, arguments.backend) as segment,
        Progress("timing", arguments.rounds, "rounds") as progress,
    ):
        others = {MONAI: sliding_window(arguments.checkpoint), LOOP: plain_loop(frames)}
        height, width = slide.size_px
        image = slide.read_rgb(0, 0, height, width)

        def ours(_: int) -> Timed:
            result = segment.slide(slide, arguments.output / f"run-{len(results)}", skip_empty=False)
            results.append(result.content)
            seconds = result.content["seconds"]
            return Timed(seconds["total"] - seconds["certificate"], seconds)

        def timed(of: Segment) -> Callable[[int], Timed]:
            def run(_: int) -> Timed:
                started = time.perf_counter()
                of(image)
                return Timed(time.perf_counter() - started, {})

            return run

        callers = {OURS: ours, **{name: timed(of) for name, of in others.items()}}
        calls, _ = in_turn(callers, arguments.rounds, 1, progress.update)
        flipped = {name: moved_grid_ppm(of, image) for name, of in others.items()}
    seconds, megapixels = {name: seconds_of(of) for name, of in calls.items()}, height * width / 1e6
    print_json(
        {
            "environment": where,
            "megapixels": round(megapixels, 2),
            "megapixels per second": {
                name: round(megapixels / Distribution.of(of).p50_s, 3) for name, of in seconds.items()
            },
            "times as fast": {name: Ratio.of(seconds[name], seconds[OURS]).model_dump() for name in others},
            "seconds of this package": results[-1]["seconds"],
            "flipped by another grid, ppm": {OURS: results[-1]["certificate"]["flipped_ppm"], **flipped},
        }
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
