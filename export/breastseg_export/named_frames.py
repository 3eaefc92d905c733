"""The frames that parity is measured on: real ones where they are given, phantoms otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.contract import rgb_frame
from breastseg_deploy.io.images import FrameFile, find_frames, read_rgb, read_truth
from breastseg_deploy.phantom import phantom_frame
from breastseg_deploy.progress import followed

PHANTOM_COUNT = 10
"""Four with cells, six without."""


@dataclass(frozen=True)
class NamedFrame:
    """A frame to compare on.

    Attributes:
        name: for the report.
        frame: (H, W, 3) uint8 RGB.
        truth: (H, W) uint8, 0 or 1, or None where nobody drew one.
    """

    name: str
    frame: NDArray[np.uint8]
    truth: NDArray[np.uint8] | None


class NamedFrames(Sequence[NamedFrame]):
    """Frames of a folder, or phantoms; each is read when it is asked for.

    Args:
        folder: of frames (see `images.find_frames`), or None for phantoms.
        size_px: (H, W) that every frame must have.
        bit_depth: of uint16 frames.

    Raises:
        FrameError: no frames; on reading, an unreadable frame or one of another size.
    """

    def __init__(self, folder: Path | None, size_px: tuple[int, int], bit_depth: int | None = None) -> None:
        self._size_px = size_px
        self._bit_depth = bit_depth
        self._files: list[FrameFile] | None = None if folder is None else find_frames([folder])

    @property
    def are_phantoms(self) -> bool:
        """Whether no folder was given."""
        return self._files is None

    @property
    def description(self) -> str:
        """What the frames are, for manifest and report."""
        if self._files is None:
            return f"{len(self)} phantom frames (synthetic; no clinical evidence)"
        return f"{len(self)} frames from files, {sum(file.truth is not None for file in self._files)} with ground truth"

    def __len__(self) -> int:
        return PHANTOM_COUNT if self._files is None else len(self._files)

    def __getitem__(self, index: int) -> NamedFrame:  # type: ignore[override]  # slices are not needed
        if not 0 <= index < len(self):
            raise IndexError(index)
        if self._files is None:
            phantom = phantom_frame(index, self._size_px)
            return NamedFrame(phantom.name, rgb_frame(phantom.frame, self._size_px), phantom.mask)
        return self._read(self._files[index])

    def __iter__(self) -> Iterator[NamedFrame]:
        return (self[index] for index in range(len(self)))

    def check(self) -> None:
        """Read every frame and mask once, so that a bad one is found before the long work and not in its middle.

        Raises:
            FrameError: the first that cannot be used.
        """
        for file in followed(self._files or [], "reading frames", "frames"):
            self._read(file)

    def _read(self, file: FrameFile) -> NamedFrame:
        rgb, truth = read_rgb(file, self._size_px, self._bit_depth), read_truth(file, self._size_px)
        return NamedFrame(file.name, rgb, truth)
