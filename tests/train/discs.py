"""Frames with discs on a dark, noisy background, 64 x 64, and how they are laid out on disk."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

SIDE_PX = 64


def write_frame(root: Path, split: str, name: str, frame: np.ndarray, mask: np.ndarray | None) -> None:
    for kind, pixels in (("images", frame), ("masks", mask)):
        folder = root / split / kind
        folder.mkdir(parents=True, exist_ok=True)
        if pixels is not None:
            cv2.imwrite(str(folder / f"{name}.png"), pixels)


def disc_frame(seed: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """A grey frame and its mask (0 and 255) with so many discs."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    for _ in range(cells):
        x, y = rng.integers(8, SIDE_PX - 8, 2)
        cv2.circle(mask, (int(x), int(y)), int(rng.integers(3, 8)), 255, -1)
    light = 20 + 0.5 * mask + rng.normal(0, 4, mask.shape)
    return np.clip(light, 0, 255).astype(np.uint8), mask


def write_labels(root: Path, split: str, name: str, labels: np.ndarray) -> None:
    (root / split / "labels").mkdir(exist_ok=True)
    cv2.imwrite(str(root / split / "labels" / f"{name}.png"), labels)
