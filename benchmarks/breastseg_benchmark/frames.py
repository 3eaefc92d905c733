"""The frames of a benchmark: the bundle's goldens, then frames from files or phantoms; all of the bundle's size."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from breastseg_benchmark.results import Distribution
from breastseg_deploy.bundle import Bundle
from breastseg_deploy.contract import rgb_frame
from breastseg_deploy.io.images import FrameFile, find_frames, png_bytes, read_rgb, read_truth
from breastseg_deploy.phantom import phantom_frames
from breastseg_deploy.progress import followed
from breastseg_deploy.storage import make_folder, write_whole

PHANTOMS = 10
"""Four with cells, six without."""


@dataclass(frozen=True)
class BenchmarkFrames:
    """What every implementation segments.

    Attributes:
        description: in words.
        rgb: (N, H, W, 3) uint8.
        references: the float32 reference's masks where they are known: those of the goldens.
        truths: ground truth where there is one.
        files: of the frames that lie in files.
        bit_depth: of uint16 files.
    """

    description: str
    rgb: NDArray[np.uint8]
    references: tuple[NDArray[np.uint8] | None, ...]
    truths: tuple[NDArray[np.uint8] | None, ...]
    files: tuple[FrameFile, ...]
    bit_depth: int | None = None

    @property
    def size_px(self) -> tuple[int, int]:
        """(H, W)."""
        return self.rgb.shape[1], self.rgb.shape[2]


def benchmark_frames(
    bundle: Bundle, folder: Path | None, scratch: Path, bit_depth: int | None = None, most: int | None = None
) -> BenchmarkFrames:
    """The goldens of a bundle, then the frames of a folder, or phantoms where none is given.

    Args:
        bundle: opened.
        folder: see `images.find_frames`.
        scratch: where phantoms are written as PNG, so that decoding can be measured.
        bit_depth: of uint16 files.
        most: how many of the folder's frames or phantoms at most, the first ones.

    Raises:
        FrameError: no frames, or frames that break the bundle's contract.
        BundleError: a golden is damaged.
        MachineError: OpenCV is not installed.
    """
    size_px, goldens = bundle.manifest.frame.size_px, bundle.goldens()
    if folder is None:
        count = PHANTOMS if most is None else min(most, PHANTOMS)
        files = write_phantoms(scratch, count, size_px)
        what = f"{len(files)} phantoms (synthetic; no clinical evidence)"
    else:
        files = find_frames([folder])[:most]
        what = f"{len(files)} frames from files"
    read = [read_rgb(file, size_px, bit_depth) for file in followed(files, "reading frames", "frames")]
    truths = [read_truth(file, size_px) for file in files]
    return BenchmarkFrames(
        description=f"{what}, and the bundle's {len(goldens)} goldens; {size_px[0]} x {size_px[1]} px",
        rgb=np.stack([golden.frame for golden in goldens] + read),
        references=(*(golden.mask for golden in goldens), *(None for _ in files)),
        truths=(*(None for _ in goldens), *truths),
        files=tuple(files),
        bit_depth=bit_depth,
    )


def write_phantoms(folder: Path, count: int, size_px: tuple[int, int]) -> list[FrameFile]:
    """Write the first phantoms of a size as `images/` and `masks/`, as PNG.

    Raises:
        OutputError: the folder cannot be written.
    """
    make_folder(folder / "images")
    make_folder(folder / "masks")
    for phantom in phantom_frames(count, size_px):
        frame = rgb_frame(phantom.frame, size_px)
        write_whole(folder / "images" / f"{phantom.name}.png", png_bytes(frame))
        write_whole(folder / "masks" / f"{phantom.name}.png", png_bytes(phantom.mask * np.uint8(255)))
    return find_frames([folder])


def decoding(frames: BenchmarkFrames, rounds: int) -> Distribution | None:
    """Time to read and decode a frame's file into RGB, files in turn; None where no frame lies in a file."""
    if not frames.files:
        return None
    seconds = []
    for number in range(rounds):
        file = frames.files[number % len(frames.files)]
        started = time.perf_counter()
        read_rgb(file, frames.size_px, frames.bit_depth)
        seconds.append(time.perf_counter() - started)
    return Distribution.of(seconds)
