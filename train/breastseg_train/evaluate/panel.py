"""The qualitative panel of the paper's Fig. 3: frame, truth, probability, errors; best, median and worst frame."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from breastseg_train.data.dataset import Sample, read_frame, read_mask
from breastseg_train.evaluate.evaluation import Predictor, masked
from breastseg_train.evaluate.frame_figures import FrameFigures

HIT_RGB = (190, 190, 190)
FALSE_POSITIVE_RGB = (225, 40, 40)
FALSE_NEGATIVE_RGB = (40, 90, 235)

_TITLES = ("frame, contrast stretched", "truth", "probability", "errors: red false, blue missed")
_BRIGHTEST_PERCENTILE = 99.5


def best_median_worst(figures: Sequence[FrameFigures]) -> dict[str, FrameFigures]:
    """The frames with cells of the best, the median and the worst Dice; fewer where there are fewer frames."""
    ranked = sorted((frame for frame in figures if frame.truth_pixels), key=lambda frame: -frame.dice)
    if not ranked:
        return {}
    return {"best": ranked[0], "median": ranked[len(ranked) // 2], "worst": ranked[-1]}


def panel_png(predict: Predictor, chosen: Mapping[str, tuple[Sample, float]], threshold: float) -> bytes:
    """A PNG picture with one row per frame.

    Args:
        predict: whose probabilities to show.
        chosen: sample and Dice by what the row is called, at least one.
        threshold: a pixel is cell where its probability is >= threshold.
    """
    figure = Figure(figsize=(13, 3.3 * len(chosen)), layout="constrained")
    grid = figure.subplots(len(chosen), len(_TITLES), squeeze=False)
    for row, (called, (sample, dice)) in zip(grid, chosen.items(), strict=True):
        frame, truth = read_frame(sample.image), read_mask(sample.mask)
        probability = predict(frame[np.newaxis])[0]
        row[0].imshow(_stretched(frame))
        row[1].imshow(truth, cmap="gray", vmin=0, vmax=1)
        shown = row[2].imshow(probability, cmap="viridis", vmin=0, vmax=1)
        row[3].imshow(error_map(masked(probability, threshold), truth))
        row[0].set_ylabel(f"{called}: {sample.name}\nDice {dice:.4f}")
        for axes in row:
            axes.set(xticks=[], yticks=[])
        figure.colorbar(shown, ax=row[2])
    for axes, title in zip(grid[0], _TITLES, strict=True):
        axes.set_title(title)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=90)
    return picture.getvalue()


def error_map(mask: NDArray[np.uint8], truth: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) RGB picture of two (H, W) masks: hits grey, false positives red, false negatives blue."""
    picture = np.zeros((*mask.shape, 3), np.uint8)
    picture[(mask == 1) & (truth == 1)] = HIT_RGB
    picture[(mask == 1) & (truth == 0)] = FALSE_POSITIVE_RGB
    picture[(mask == 0) & (truth == 1)] = FALSE_NEGATIVE_RGB
    return picture


def _stretched(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The frame for the eye: black stays, its 99.5th percentile becomes white."""
    white = max(1.0, float(np.percentile(frame, _BRIGHTEST_PERCENTILE)))
    return np.asarray(np.clip(frame * (255 / white), 0, 255), np.uint8)
