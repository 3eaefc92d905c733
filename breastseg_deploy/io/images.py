"""Image files in and out: PNG, TIFF and JPEG frames, mask files, overlays. Uses OpenCV, loaded when needed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.contract import rgb_frame
from breastseg_deploy.errors import FrameError
from breastseg_deploy.extras import require

SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")

_JPEG_SCAN, _JPEG_END = b"\xff\xda", b"\xff\xd9"
_CONTOUR_RGB = (0, 255, 80)


@dataclass(frozen=True)
class FrameFile:
    """A frame on disk, with the file of its ground-truth mask where there is one."""

    path: Path
    truth: Path | None = None

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return self.path.stem


def read_frame(path: Path) -> NDArray[Any]:
    """Decode one frame, exactly as it is stored: no rotation by EXIF, no scaling of 16-bit values.

    Returns:
        (H, W) grey or (H, W, 3) RGB, of the file's own dtype.

    Raises:
        FrameError: unreadable, truncated, of several pages, or with an alpha channel.
        MachineError: OpenCV is not installed.
    """
    cv2 = require("cv2", "cpu")
    try:
        content = path.read_bytes()
    except OSError as err:
        raise _unreadable(path, err) from err
    if is_cut_short_jpeg(content):
        raise FrameError(f"{path} is cut short (no end marker after its last scan); copy it again")
    try:  # OpenCV may complain on stderr besides: its log level belongs to the whole process, so it is left alone here
        decoded, pages = cv2.imdecodemulti(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as err:
        raise _not_an_image(path) from err
    if not decoded or not pages:
        raise _not_an_image(path)
    if len(pages) > 1:
        raise FrameError(f"{path} holds {len(pages)} pages and only one frame per file is read; split it first")
    image: NDArray[Any] = pages[0]
    if image.ndim == 3 and image.shape[2] == 3:
        return np.ascontiguousarray(image[:, :, ::-1])
    if image.ndim == 2:
        return image
    raise FrameError(f"{path} has {image.shape[2]} channels, expected grey or RGB; remove the alpha channel")


def read_mask(path: Path) -> NDArray[np.uint8]:
    """Decode a mask file; (H, W) uint8, 0 or 1.

    Raises:
        FrameError: unreadable, not grey, or with other values than 0 and one other (1 or 255).
    """
    mask = read_frame(path)
    values = np.unique(mask)
    if mask.ndim != 2 or not set(values.tolist()) <= {0, 1, 255} or {1, 255} <= set(values.tolist()):
        raise FrameError(
            f"{path} must be a grey mask of 0 and 255 (or 0 and 1), got shape {mask.shape} with {len(values)} values; "
            "save it as a lossless grey PNG"
        )
    return np.asarray(mask != 0, np.uint8)


def read_rgb(file: FrameFile, size_px: tuple[int, int], bit_depth: int | None = None) -> NDArray[np.uint8]:
    """A frame on disk as the contract wants it; (H, W, 3) uint8 RGB.

    Args:
        file: the frame.
        size_px: (H, W) that it must have.
        bit_depth: of 16-bit files; 8-bit files beside them need none.

    Raises:
        FrameError: unreadable, or it breaks the contract; the message names the file.
    """
    frame = read_frame(file.path)
    try:
        return np.asarray(rgb_frame(frame, size_px, bit_depth=bit_depth if frame.itemsize == 2 else None))
    except FrameError as err:
        raise FrameError(f"{file.path}: {err}") from err


def read_truth(file: FrameFile, size_px: tuple[int, int]) -> NDArray[np.uint8] | None:
    """The ground truth of a frame, (H, W) uint8, 0 or 1; None where there is none.

    Raises:
        FrameError: unreadable, no mask, or of another size.
    """
    if file.truth is None:
        return None
    truth = read_mask(file.truth)
    if truth.shape != size_px:
        raise FrameError(f"{file.truth} has the size {truth.shape}, expected {size_px}; draw it on this frame")
    return truth


def find_frames(places: Iterable[Path]) -> list[FrameFile]:
    """The frames of files and folders, in the order given and by name inside a folder.

    A folder with `images/` inside is taken as a data set: frames from `images/`, masks from `masks/` where it exists.

    Raises:
        FrameError: a place that does not exist, a folder without frames, or two frames of one name (their masks would
            overwrite each other).
    """
    seen: dict[str, FrameFile] = {}
    for frame in (frame for place in places for frame in _in_place(place)):
        other = seen.setdefault(frame.name, frame)
        if other.path.resolve() != frame.path.resolve():  # one file that was named twice is one frame
            raise FrameError(f"{other.path} and {frame.path} would both become {frame.name}.png; give one another name")
    return list(seen.values())


def png_bytes(image: NDArray[np.uint8]) -> bytes:
    """Encode (H, W) grey or (H, W, 3) RGB uint8 as PNG."""
    cv2 = require("cv2", "cpu")
    done, encoded = cv2.imencode(".png", image if image.ndim == 2 else image[:, :, ::-1])
    if not done:
        raise FrameError(f"cannot encode an image of shape {image.shape} as PNG; expected uint8 grey or RGB")
    return bytes(encoded)


def overlay(rgb: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The frame with the mask's outline drawn on it; (H, W, 3) uint8, `rgb` itself stays as it is."""
    cv2 = require("cv2", "cpu")
    drawn = rgb.copy()
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, contours, -1, _CONTOUR_RGB, 1)
    return drawn


def is_cut_short_jpeg(content: bytes) -> bool:
    """Whether a JPEG ends early: it decodes without an error, its rest grey; the missing end marker gives it away."""
    return content.startswith(b"\xff\xd8") and content.rfind(_JPEG_END) < content.rfind(_JPEG_SCAN)


def _in_place(place: Path) -> list[FrameFile]:
    try:
        if place.is_dir():
            return _in_folder(place)
        if place.is_file():
            return [FrameFile(place)]
    except OSError as err:
        raise _unreadable(place, err) from err
    raise FrameError(f"there is no {place}; expected an image file or a folder of them")


def _in_folder(folder: Path) -> list[FrameFile]:
    images = folder / "images" if (folder / "images").is_dir() else folder
    masks = folder / "masks" if images != folder else None
    paths = sorted(path for path in images.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise FrameError(f"{images} holds no frames; expected files ending in {', '.join(SUFFIXES)}")
    return [FrameFile(path, _truth_of(path, masks)) for path in paths]


def _truth_of(path: Path, masks: Path | None) -> Path | None:
    truth = masks / f"{path.stem}.png" if masks is not None else None
    return truth if truth is not None and truth.is_file() else None


def _unreadable(path: Path, err: OSError) -> FrameError:
    return FrameError(f"cannot read {path}: {(err.strerror or str(err)).lower()}; check its name and permissions")


def _not_an_image(path: Path) -> FrameError:
    return FrameError(f"{path} is damaged or no image; expected a complete PNG, TIFF or JPEG file")
