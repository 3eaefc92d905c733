"""Images and their labels as others lay them out on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from breastseg_deploy.errors import DataError
from breastseg_deploy.io import images

BMGD_STIFFNESSES = ("250 Pa", "950 Pa", "1200 Pa", "1800 Pa")
"""Folders of the Breast Mammary Gland Dataset, by the stiffness of the gel that the organoids grew in."""

_LABEL_FOLDERS = ("labels", "masks")
_LABEL_ENDING, _IMAGE_ENDING = "_masks", "_img"
"""Cellpose's: NAME.tif or NAME_img.tif with NAME_masks.tif beside it."""


@dataclass(frozen=True)
class Pair:
    """An image and the file of its labels.

    Attributes:
        source: group that it belongs to; splits share each group out alike.
        image: path of the image.
        labels: path of its labels.
        instances: whether the labels number the cells; otherwise they are a mask.
    """

    source: str
    image: Path
    labels: Path
    instances: bool


def bmgd_pairs(root: Path, problems: list[str]) -> list[Pair]:
    """The images of the unpacked Breast Mammary Gland Dataset: STIFFNESS/image/NAME.tif and STIFFNESS/mask/NAME.tif.

    Args:
        root: the folder that holds the stiffnesses.
        problems: gets a sentence for each folder, image or mask that is missing.
    """
    pairs = []
    for stiffness in BMGD_STIFFNESSES:
        folder = root / stiffness
        found = (_by_stem(folder / "image", problems), _by_stem(folder / "mask", problems))
        pairs += [Pair(stiffness, image, mask, False) for image, mask in _matched(*found, problems)]
    return pairs


def label_pairs(root: Path, problems: list[str]) -> list[Pair]:
    """Images with instance labels: images/NAME with labels/NAME or masks/NAME, or NAME with NAME_masks in one folder.

    Args:
        root: the folder.
        problems: gets a sentence for each image without labels, and for labels without an image.
    """
    beside = [root / name for name in _LABEL_FOLDERS if (root / name).is_dir()]
    if (root / "images").is_dir() and beside:
        frames, labels = _by_stem(root / "images", problems), _by_stem(beside[0], problems)
    else:
        files = _by_stem(root, problems)
        labels = {
            stem.removesuffix(_LABEL_ENDING): path for stem, path in files.items() if stem.endswith(_LABEL_ENDING)
        }
        frames = {
            stem.removesuffix(_IMAGE_ENDING): path for stem, path in files.items() if not stem.endswith(_LABEL_ENDING)
        }
    return [Pair(root.resolve().name, image, label, True) for image, label in _matched(frames, labels, problems)]


LAYOUTS: Mapping[str, Callable[[Path, list[str]], list[Pair]]] = {"bmgd": bmgd_pairs, "labels": label_pairs}


def find_pairs(layout: str, root: Path) -> list[Pair]:
    """The pairs of a folder.

    Raises:
        DataError: with all problems that there are.
    """
    problems: list[str] = []
    pairs = LAYOUTS[layout](root, problems)
    refuse(problems, root)
    return pairs


def refuse(problems: list[str], root: Path) -> None:
    """Raise a DataError that lists the problems, where there are any."""
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise DataError(f"{root} has {len(problems)} problem(s); mend them and start again:\n{listed}")


def _by_stem(folder: Path, problems: list[str]) -> dict[str, Path]:
    """The images of a folder by their names without suffix."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    found: dict[str, Path] = {}
    for path in files:
        if path.suffix.lower() not in images.SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in found:
            problems.append(f"{path}: {found[path.stem].name} has the same name; rename one")
        found[path.stem] = path
    if not found:
        problems.append(f"{folder}: holds no images; expected files such as NAME.tif")
    return found


def _matched(
    frames: Mapping[str, Path], labels: Mapping[str, Path], problems: list[str]
) -> Iterable[tuple[Path, Path]]:
    problems += [f"{frames[name]}: has no labels of that name" for name in sorted(frames.keys() - labels.keys())]
    problems += [f"{labels[name]}: has no image of that name" for name in sorted(labels.keys() - frames.keys())]
    return [(frames[name], labels[name]) for name in sorted(frames.keys() & labels.keys())]
