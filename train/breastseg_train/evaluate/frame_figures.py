"""Figures of one segmented frame against its truth: overlap, borders, small structures."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from numpy.typing import NDArray

from breastseg_deploy.instance_metrics import InstanceCounts
from breastseg_deploy.metrics import dice, surface_dice
from breastseg_train.data.mask_statistics import SMALL_STRUCTURE_PX
from breastseg_train.evaluate.error_analysis import ErrorCounts, error_counts

HAUSDORFF_PERCENTILE = 95
FOUND_SHARE = 0.5
"""A small structure counts as found where at least this share of its pixels is in the mask."""


@dataclass(frozen=True)
class FrameFigures:
    """Figures of one frame; undefined ones are None.

    Attributes:
        name: of the frame.
        truth_pixels: cell pixels in truth; 0 marks a frame without cells.
        mask_pixels: predicted cell pixels.
        dice: paper eq. (7); 1 for an empty pair by convention.
        iou: paper eq. (7); likewise.
        precision: paper eq. (8); None where nothing was predicted.
        recall: paper eq. (8); None where truth has no cells.
        surface_dice: at 3 px, see `metrics.surface_dice`.
        hd95_px: see `hausdorff95`; None where one of the masks is empty.
        small_structures: components under 100 px in truth.
        small_structures_found: how many of them have at least half of their pixels in the mask.
        errors: where the wrong pixels lie.
        cells: what the figures of cells are made of; None where the frame's cells are not numbered.
    """

    name: str
    truth_pixels: int
    mask_pixels: int
    dice: float
    iou: float
    precision: float | None
    recall: float | None
    surface_dice: float
    hd95_px: float | None
    small_structures: int
    small_structures_found: int
    errors: ErrorCounts
    cells: InstanceCounts | None = None


def frame_figures(
    name: str, frame: NDArray[np.uint8], mask: NDArray[np.uint8], truth: NDArray[np.uint8]
) -> FrameFigures:
    """Compare the mask of an (H, W, 3) uint8 RGB frame with its truth, both (H, W) uint8, 0 and 1."""
    hits, predicted, expected = int((mask & truth).sum()), int(mask.sum()), int(truth.sum())
    union = predicted + expected - hits
    small, found = _small_structures(mask, truth)
    return FrameFigures(
        name=name,
        truth_pixels=expected,
        mask_pixels=predicted,
        dice=dice(mask, truth),
        iou=hits / union if union else 1.0,
        precision=hits / predicted if predicted else None,
        recall=hits / expected if expected else None,
        surface_dice=surface_dice(mask, truth),
        hd95_px=hausdorff95(mask, truth),
        small_structures=small,
        small_structures_found=found,
        errors=error_counts(frame, mask, truth),
    )


def hausdorff95(mask: NDArray[Any], truth: NDArray[Any]) -> float | None:
    """MONAI's HD95: the larger of the two directed 95th percentiles of the distances between borders, in pixels.

    A cell that the frame's edge cuts has a border along that edge here, as wherever MONAI's figure is reported; in
    `metrics.surface_dice` it has none, because nobody drew one.

    Args:
        mask: (H, W); any non-zero value is foreground.
        truth: (H, W), likewise.

    Returns:
        None where a mask is empty, because no distance exists.
    """
    if not (mask.any() and truth.any()):
        return None
    predicted, expected = (torch.from_numpy((pixels != 0)[np.newaxis, np.newaxis]) for pixels in (mask, truth))
    with warnings.catch_warnings():
        # MONAI 1.5 and 1.6 call themselves by an argument that they deprecate.
        warnings.filterwarnings("ignore", ".*always_return_as_numpy.*", FutureWarning)
        distance = compute_hausdorff_distance(
            predicted, expected, include_background=True, percentile=HAUSDORFF_PERCENTILE
        )
    return float(distance)


def _small_structures(mask: NDArray[np.uint8], truth: NDArray[np.uint8]) -> tuple[int, int]:
    """Number of small structures in truth, and how many of them were found."""
    count, labels, table, _ = cv2.connectedComponentsWithStats(truth, connectivity=8)
    areas = table[:, cv2.CC_STAT_AREA]
    hits = np.bincount(labels[mask > 0], minlength=count)
    small = areas < SMALL_STRUCTURE_PX
    small[0] = False  # the background
    return int(small.sum()), int((hits[small] >= FOUND_SHARE * areas[small]).sum())
