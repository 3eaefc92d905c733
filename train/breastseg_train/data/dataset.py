"""The data set on disk: DATA/SPLIT/images/NAME.png with DATA/SPLIT/masks/NAME.png, checked whole before it is used.

Beside them may lie DATA/SPLIT/labels/NAME.png: whole numbers, 0 for none and one for each cell.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.contract import SIDE_MULTIPLE_PX, rgb_frame
from breastseg_deploy.errors import DataError, FrameError
from breastseg_deploy.io import images
from breastseg_deploy.progress import followed

Pixel = TypeVar("Pixel", bound=np.generic)


@dataclass(frozen=True)
class Sample:
    """One frame with its mask.

    Attributes:
        name: file name of the frame without its suffix.
        split: folder it came from.
        image: path of the frame, 8-bit grey or RGB.
        mask: path of the mask.
        sha256: hash of the frame's pixels and the mask's foreground, not of the files: it survives another compression.
        window: the part of frame and mask that is the sample, as top, left, height and width; None for all of it.
        labels: path of the numbered cells; None where they are not numbered.
    """

    name: str
    split: str
    image: Path
    mask: Path
    sha256: str
    window: tuple[int, int, int, int] | None = None
    labels: Path | None = None

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The sample's frame, (H, W, 3), and mask, (H, W); see `read_frame` and `read_mask`."""
        return self._part(read_frame(self.image)), self._part(read_mask(self.mask))

    def read_labels(self) -> NDArray[np.int64] | None:
        """The sample's cells, (H, W), 0 for none and a number for each; None where they are not numbered.

        Raises:
            DataError: see `read_labels`.
        """
        return None if self.labels is None else self._part(read_labels(self.labels))

    def _part(self, pixels: NDArray[Pixel]) -> NDArray[Pixel]:
        if self.window is None:
            return pixels
        top, left, height, width = self.window
        return pixels[top : top + height, left : left + width]


@dataclass(frozen=True)
class DataSet:
    """The checked splits of a data set, each sorted by name."""

    root: Path
    splits: Mapping[str, tuple[Sample, ...]]

    def samples(self, names: Iterable[str]) -> tuple[Sample, ...]:
        """The samples of several splits, one split after the other."""
        return tuple(sample for name in names for sample in self.splits[name])

    @property
    def sha256(self) -> str:
        """Hash over the content of every sample and the split it lies in."""
        samples = self.samples(sorted(self.splits))
        lines = [f"{sample.split}/{sample.name} {sample.sha256}" for sample in samples]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_data_set(root: Path, splits: Iterable[str], min_side_px: int = SIDE_MULTIPLE_PX) -> DataSet:
    """Read and check every frame and mask of the named splits.

    Args:
        root: folder with one folder per split.
        splits: which splits are needed.
        min_side_px: shortest side that a frame may have, such as the training crop.

    Raises:
        DataError: with all problems of all splits: no such split, a frame without mask, a mask without frame, two
            frames of one name, unreadable files, sizes that differ or do not suit the network, masks with values other
            than 0 and 1 or 255, the same frame in two splits, labels of another size.
    """
    problems: list[str] = []
    found = {split: tuple(_samples(root / split, min_side_px, problems)) for split in splits}
    by_pixels: dict[str, list[Sample]] = defaultdict(list)
    for samples in found.values():
        for sample in samples:
            by_pixels[sample.sha256].append(sample)
    for same in by_pixels.values():
        if len({sample.split for sample in same}) > 1:
            places = " and ".join(f"{sample.split}/{sample.name}" for sample in same)
            problems.append(f"{places}: the same frame in several splits; keep it in one")
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise DataError(f"the data set {root} has {len(problems)} problem(s); mend them and start again:\n{listed}")
    return DataSet(root, found)


def read_frame(path: Path) -> NDArray[np.uint8]:
    """A frame as (H, W, 3) uint8 RGB, decoded by the runtime's own code; a grey one is repeated to three channels.

    Raises:
        DataError: unreadable or cut short, or not 8-bit grey or RGB.
    """
    try:
        pixels = images.read_frame(path)
    except FrameError as err:
        raise DataError(str(err)) from err
    if pixels.dtype != np.uint8:
        raise DataError(f"{path}: a frame must be 8-bit grey or RGB, got {pixels.dtype} {pixels.shape}; convert it")
    return np.asarray(rgb_frame(pixels, (pixels.shape[0], pixels.shape[1])))


def read_mask(path: Path) -> NDArray[np.uint8]:
    """A mask as (H, W) uint8, 0 and 1, decoded by the runtime's own code.

    Raises:
        DataError: unreadable, more than one channel, or values other than 0 and 1 or 255.
    """
    try:
        return images.read_mask(path)
    except FrameError as err:
        raise DataError(str(err)) from err


def read_labels(path: Path) -> NDArray[np.int64]:
    """Numbered cells as (H, W) int64, decoded by the runtime's own code.

    Raises:
        DataError: unreadable, more than one channel, or no whole numbers.
    """
    try:
        labels = images.read_frame(path)
    except FrameError as err:
        raise DataError(str(err)) from err
    if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{path}: labels are one channel of whole numbers, got {labels.dtype} {labels.shape}")
    return labels.astype(np.int64)


def _samples(folder: Path, min_side_px: int, problems: list[str]) -> Iterable[Sample]:
    frames = _by_name(folder / "images", problems)
    masks = _by_name(folder / "masks", problems)
    labels = _by_name(folder / "labels", problems) if (folder / "labels").is_dir() else {}
    problems += [f"{frames[name]}: has no mask of that name" for name in sorted(frames.keys() - masks.keys())]
    for other in (masks, labels):
        problems += [f"{other[name]}: has no frame of that name" for name in sorted(other.keys() - frames.keys())]
    for name in followed(sorted(frames.keys() & masks.keys()), f"reading {folder}", "frames"):
        try:
            frame, mask = read_frame(frames[name]), read_mask(masks[name])
            cells = read_labels(labels[name]) if name in labels else None
        except DataError as err:
            problems.append(str(err))
            continue
        height, width = frame.shape[:2]
        if mask.shape != (height, width):
            problems.append(f"{masks[name]}: {mask.shape[0]} x {mask.shape[1]} px, its frame has {height} x {width}")
        if height % SIDE_MULTIPLE_PX or width % SIDE_MULTIPLE_PX or min(height, width) < min_side_px:
            problems.append(
                f"{frames[name]}: {height} x {width} px; each side must be a multiple of {SIDE_MULTIPLE_PX} "
                f"and at least {min_side_px}: crop it"
            )
        if cells is not None and cells.shape != (height, width):
            problems.append(f"{labels[name]}: {cells.shape[0]} x {cells.shape[1]} px, its frame has {height} x {width}")
        digest = hashlib.sha256(f"{frame.shape}".encode() + frame.tobytes() + mask.tobytes()).hexdigest()
        yield Sample(name, folder.name, frames[name], masks[name], digest, labels=labels.get(name))


def _by_name(folder: Path, problems: list[str]) -> dict[str, Path]:
    """The images of a folder by file name without suffix."""
    found: dict[str, Path] = {}
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    for path in files:
        if path.suffix.lower() in images.SUFFIXES and path.stem in found:
            problems.append(f"{path}: {found[path.stem].name} has the same name; rename one")
        elif path.suffix.lower() in images.SUFFIXES:
            found[path.stem] = path
    if not found:
        problems.append(f"{folder}: holds no images; expected files such as NAME.png")
    return found
