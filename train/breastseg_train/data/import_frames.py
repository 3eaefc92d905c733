"""From images of any size with labels to a data set: 8-bit frames of one size in splits of the paper's proportions."""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.contract import SIDE_MULTIPLE_PX, rgb_frame
from breastseg_deploy.errors import ArgumentError, FrameError
from breastseg_deploy.io import images
from breastseg_deploy.progress import followed
from breastseg_deploy.storage import folder_written_whole, make_folder
from breastseg_train.data.dataset import read_data_set
from breastseg_train.data.import_pairs import Pair, refuse
from breastseg_train.data.sources import MANIFEST

PROPORTIONS = {"train": 599, "val": 130, "test": 100}
"""Of the paper's Table I."""

_MOST_LABELS = 2**16 - 1
_COLUMNS = ("split", "name", "dataset", "has_cells", "source_path", "top", "left")


@dataclass(frozen=True)
class ImportSettings:
    """How images become frames.

    Attributes:
        side_px: of the square frames, a multiple of 32.
        bit_depth: of 16-bit images, 9 to 16; None where there are none.
        seed: of the splits.

    Raises:
        ArgumentError: a side that the network cannot take.
    """

    side_px: int = 512
    bit_depth: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.side_px < SIDE_MULTIPLE_PX or self.side_px % SIDE_MULTIPLE_PX:
            raise ArgumentError(f"a frame's side is a positive multiple of {SIDE_MULTIPLE_PX}, got {self.side_px}")


@dataclass(frozen=True)
class _Image:
    """An image that was read: RGB, mask or labels, and where it goes."""

    pair: Pair
    name: str
    has_cells: bool


def import_frames(
    root: Path,
    pairs: Sequence[Pair],
    output: Path,
    settings: ImportSettings,
    on_image: Callable[[], object] = lambda: None,
) -> None:
    """Write a data set of the pairs, whole or not at all: images, masks, a manifest, labels where cells are numbered.

    All frames of an image go into one split. Each source, and in it the images with and without cells, is shared out in
    the paper's proportions. The manifest names the source of each frame.

    Args:
        root: where the pairs come from, as messages and the manifest name it.
        pairs: at least one.
        output: folder to make.
        settings: how.
        on_image: called after each image, for a progress bar.

    Raises:
        DataError: with all problems of all images: unreadable, 16 bits without a bit depth, labels of another size or
            kind, frames that come twice.
        OutputError: the folder cannot be written, or is not empty.
    """
    problems: list[str] = []
    found = []
    for pair, name in zip(pairs, _names(pairs), strict=True):
        try:
            _, labels = _read(pair, settings)
            found.append(_Image(pair, name, bool(labels.any())))
        except FrameError as err:
            problems.append(str(err))
        on_image()
    refuse(problems, root)
    with folder_written_whole(output, force=False) as folder:
        rows: list[dict[str, Any]] = []
        for image, split in followed(list(shared_out(found, settings.seed)), "write", "images"):
            rows += _write(image, split, folder, root, settings)
        (folder / MANIFEST).write_text(_table(rows), encoding="utf-8")
        read_data_set(folder, sorted({row["split"] for row in rows}))


def shared_out(found: Sequence[_Image], seed: int) -> Iterator[tuple[_Image, str]]:
    """Each image with its split: at random, every group in the paper's proportions as nearly as whole images allow."""
    groups: dict[tuple[bool, str], list[_Image]] = defaultdict(list)
    for image in found:
        groups[image.has_cells, image.pair.source].append(image)
    rng, whole = np.random.default_rng(seed), sum(PROPORTIONS.values())
    for has_cells in (True, False):
        # What is owed is carried from source to source, so that all of them together keep the proportions too.
        given = dict.fromkeys(PROPORTIONS, 0)
        images_of_kind = [groups[key] for key in sorted(groups) if key[0] == has_cells]
        for image in (group[at] for group in images_of_kind for at in rng.permutation(len(group))):
            owed = {
                name: share * (sum(given.values()) + 1) / whole - given[name] for name, share in PROPORTIONS.items()
            }
            split = max(owed, key=owed.__getitem__)
            given[split] += 1
            yield image, split


def cut(pixels: NDArray[Any], side_px: int) -> Iterator[tuple[int, int, NDArray[Any]]]:
    """Squares of that side, from the middle of an (H, W, ...) image: top, left, square.

    What is left over at the borders, less than a side, is cut off; an image that is too small is mirrored outwards, and
    its top or left is then negative. A mirrored cell keeps its number.
    """
    missing = [max(0, side_px - extent) for extent in pixels.shape[:2]]
    before = [one // 2 for one in missing]
    if any(missing):
        (top, left), (bottom, right) = before, [one - half for one, half in zip(missing, before, strict=True)]
        pixels = cv2.copyMakeBorder(pixels, top, bottom, left, right, cv2.BORDER_REFLECT_101)
    rows, columns = (
        [(extent - extent // side_px * side_px) // 2 + number * side_px for number in range(extent // side_px)]
        for extent in pixels.shape[:2]
    )
    for top in rows:
        for left in columns:
            yield top - before[0], left - before[1], pixels[top : top + side_px, left : left + side_px]


def _read(pair: Pair, settings: ImportSettings) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """An image as (H, W, 3) uint8 and its labels as (H, W) uint16, or its mask as (H, W) uint8, 0 and 1.

    Raises:
        FrameError: either cannot be taken; the message names the file.
    """
    raw, labels = images.read_frame(pair.image), images.read_frame(pair.labels)
    size = (raw.shape[0], raw.shape[1])
    depth = settings.bit_depth if raw.dtype == np.uint16 else None
    if raw.dtype == np.uint16 and depth is None:
        raise FrameError(f"{pair.image}: 16-bit pixels up to {raw.max()}; say what white is by --bit-depth (9 to 16)")
    try:
        frame = np.asarray(rgb_frame(raw, size, bit_depth=depth))
    except FrameError as err:
        raise FrameError(f"{pair.image}: {err}") from err
    if labels.ndim == 3 and (labels == labels[..., :1]).all():
        labels = labels[..., 0]
    if labels.shape != size:
        raise FrameError(f"{pair.labels}: has the shape {labels.shape}, its image {size}; draw it on this image")
    if not pair.instances:
        values = np.unique(labels)
        if len(values) > 2 or (len(values) == 2 and values[0] != 0):
            raise FrameError(
                f"{pair.labels}: a mask has 0 and one other value, got {len(values)} values; numbered cells are "
                "imported as labels"
            )
        return frame, np.asarray(labels != 0, np.uint8)
    if not np.issubdtype(labels.dtype, np.integer) or labels.max(initial=0) > _MOST_LABELS:
        raise FrameError(f"{pair.labels}: labels are whole numbers up to {_MOST_LABELS}, got {labels.dtype}")
    return frame, labels.astype(np.uint16)


def _write(image: _Image, split: str, folder: Path, root: Path, settings: ImportSettings) -> Iterator[dict[str, Any]]:
    """Write the frames of an image; a row of the manifest for each."""
    frame, labels = _read(image.pair, settings)
    grey = bool((frame == frame[..., :1]).all())
    squares = zip(cut(frame, settings.side_px), cut(labels, settings.side_px), strict=True)
    for number, ((top, left, pixels), (_, _, truth)) in enumerate(squares):
        name = f"{image.name}_{number}"
        kinds: dict[str, NDArray[Any]] = {
            "images": pixels[..., 0] if grey else pixels,
            "masks": np.where(truth, 255, 0).astype(np.uint8),
        }
        if image.pair.instances:
            kinds["labels"] = truth
        for kind, written in kinds.items():
            make_folder(folder / split / kind)
            (folder / split / kind / f"{name}.png").write_bytes(images.png_bytes(written))
        yield {
            "split": split,
            "name": name,
            "dataset": image.pair.source,
            "has_cells": int(truth.any()),
            "source_path": image.pair.image.relative_to(root).as_posix(),
            "top": top,
            "left": left,
        }


def _names(pairs: Sequence[Pair]) -> list[str]:
    """A name for each image that any file system takes, no two alike whatever the system makes of capitals."""
    given: set[str] = set()
    names = []
    for pair in pairs:
        plain = re.sub(r"[^A-Za-z0-9]+", "-", f"{pair.source} {pair.image.stem}").strip("-") or "image"
        name, number = plain, 1
        while name.lower() in given:
            number += 1
            name = f"{plain}-{number}"
        given.add(name.lower())
        names.append(name)
    return names


def _table(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS)
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda row: (row["split"], row["name"])))
    return text.getvalue()
