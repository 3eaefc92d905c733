"""Evaluation of a predictor on whole frames, and the summary over frames: means, spreads, confidence intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.instance_metrics import InstanceCounts, instance_counts, together
from breastseg_deploy.instances import DEFAULTS, CellParameters, split_cells
from breastseg_deploy.progress import followed
from breastseg_train.data.dataset import Sample
from breastseg_train.evaluate.error_analysis import total
from breastseg_train.evaluate.frame_figures import FrameFigures, frame_figures

Predictor = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Probabilities (N, H, W) float32 of (N, H, W, 3) uint8 RGB frames."""

BOOTSTRAP_ROUNDS = 2000
CONFIDENCE = 0.95

_FIGURES = ("dice", "iou", "precision", "recall", "surface_dice", "hd95_px")


@dataclass(frozen=True)
class CellSplit:
    """How masks become cells.

    Attributes:
        parameters: of `instances.split_cells`.
        pixel_size_um: of the frames; None where it is not known.
    """

    parameters: CellParameters = DEFAULTS
    pixel_size_um: float | None = None


def evaluate(
    predict: Predictor,
    samples: Sequence[Sample],
    threshold: float,
    watch: Callable[[NDArray[np.float32], NDArray[np.uint8]], object] = lambda probability, truth: None,
    split: CellSplit | None = None,
) -> list[FrameFigures]:
    """Figures of every sample; a pixel is cell where its probability is >= threshold.

    Args:
        predict: what is measured.
        samples: on which frames.
        threshold: of the probability.
        watch: shown each frame's probabilities and truth, both (H, W).
        split: how masks become cells where a sample's cells are numbered; None for the documented defaults.
    """
    figures = []
    for sample in followed(samples, "evaluate", "frames"):
        frame, truth = sample.read()
        probability = predict(frame[np.newaxis])[0]
        watch(probability, truth)
        mask = masked(probability, threshold)
        cells = cell_counts(sample, mask, probability, split or CellSplit())
        figures.append(replace(frame_figures(sample.name, frame, mask, truth), cells=cells))
    return figures


def cell_counts(
    sample: Sample, mask: NDArray[np.uint8], probability: NDArray[np.float32], split: CellSplit
) -> InstanceCounts | None:
    """Cells of an (H, W) mask against the numbered ones of its sample; None where it has none."""
    truth = sample.read_labels()
    if truth is None:
        return None
    return instance_counts(split_cells(mask, probability, split.parameters, split.pixel_size_um), truth)


def masked(probability: NDArray[np.float32], threshold: float) -> NDArray[np.uint8]:
    """Mask, 0 and 1, of a probability of any shape."""
    return (probability >= threshold).astype(np.uint8)


def summary(figures: Sequence[FrameFigures]) -> dict[str, Any]:
    """Figures over frames, those with cells apart from all: an empty frame left empty has a Dice of 1 by convention.

    Returns:
        JSON values: `frames`; `with_cells` and `all`, each with the number of frames and, per figure, its mean,
        standard deviation and 95 % bootstrap interval of the mean over the frames where it is defined; `empty`, with
        the share of frames with any predicted pixel and their mean number; `small_structures` found and in all;
        `errors`, with the number of wrong pixels and the share of them in each place, see `error_analysis`; `cells`,
        over all cells of the frames whose cells are numbered, see `instance_metrics.InstanceCounts`, None without any.
    """
    with_cells = [frame for frame in figures if frame.truth_pixels]
    empty = [frame for frame in figures if not frame.truth_pixels]
    small = sum(frame.small_structures for frame in figures)
    found = sum(frame.small_structures_found for frame in figures)
    numbered = [frame.cells for frame in figures if frame.cells is not None]
    return {
        "frames": len(figures),
        "with_cells": {"frames": len(with_cells), **{name: _spread(with_cells, name) for name in _FIGURES}},
        "all": {"frames": len(figures), "dice": _spread(figures, "dice"), "iou": _spread(figures, "iou")},
        "empty": {
            "frames": len(empty),
            "false_positive_rate": _mean([float(frame.mask_pixels > 0) for frame in empty]),
            "mean_predicted_pixels": _mean([float(frame.mask_pixels) for frame in empty]),
        },
        "small_structures": {"count": small, "found": found, "recall": found / small if small else None},
        "errors": _error_shares(figures),
        "cells": together(numbered).figures() if numbered else None,
    }


def confidence_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean at 95 %, frames drawn with replacement; seeded.

    Args:
        values: (N,), N >= 1.
    """
    rng = np.random.default_rng(0)
    means = rng.choice(values, (BOOTSTRAP_ROUNDS, len(values))).mean(axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, (tail, 1 - tail))
    return float(low), float(high)


def _spread(frames: Sequence[FrameFigures], name: str) -> dict[str, Any] | None:
    """Mean, standard deviation and interval of one figure over the frames where it is defined; None without any."""
    defined = [value for frame in frames if (value := getattr(frame, name)) is not None]
    if not defined:
        return None
    values = np.array(defined, np.float64)
    low, high = confidence_interval(values)
    return {
        "mean": round(float(values.mean()), 6),
        "sd": round(float(values.std(ddof=1)), 6) if len(values) > 1 else None,
        "ci95": [round(low, 6), round(high, 6)],
        "frames": len(values),
    }


def _error_shares(figures: Sequence[FrameFigures]) -> dict[str, Any]:
    counts = asdict(total(frame.errors for frame in figures))
    wrong = counts.pop("wrong")
    return {"wrong_pixels": wrong, **{place: count / wrong if wrong else None for place, count in counts.items()}}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
