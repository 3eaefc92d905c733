"""A model beside what it has to beat, over all frames and source by source, and what its probabilities are worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from breastseg_train.data.dataset import Sample
from breastseg_train.data.sources import sources
from breastseg_train.evaluate.calibration import (
    ProbabilityCounts,
    calibration,
    dice_by_threshold,
    probability_counts,
)
from breastseg_train.evaluate.evaluation import CellSplit, Predictor, evaluate, summary
from breastseg_train.evaluate.frame_figures import FrameFigures
from breastseg_train.evaluate.otsu import otsu_predictors

MODEL = "model"
_OTSU_THRESHOLD = 0.5
"""Between the two values of its masks."""


@dataclass(frozen=True)
class Comparison:
    """What was found.

    Attributes:
        figures: of the model, per frame in the order of the samples.
        result: JSON values: `compared`, the summary of the model and of what it is held against, by name; `sources`,
            the same for each source, empty where there is one alone; `calibration`; `dice_by_threshold`.
    """

    figures: list[FrameFigures]
    result: dict[str, Any]


def compare(
    predict: Predictor,
    samples: Sequence[Sample],
    threshold: float,
    data_root: Path,
    split: CellSplit | None = None,
) -> Comparison:
    """Measure a model and Otsu's thresholds on the same frames.

    Args:
        predict: the model.
        samples: the frames, at least one.
        threshold: of the model.
        data_root: where the manifest lies that names sources, see `sources`.
        split: how the model's masks, and Otsu's, become cells; see `evaluation.evaluate`.

    Raises:
        DataError: a frame that cannot be read, or a manifest that lacks a column.
    """
    named = sources(data_root, samples)
    counts: list[ProbabilityCounts] = []
    figures = {
        MODEL: evaluate(
            predict,
            samples,
            threshold,
            lambda probability, truth: counts.append(probability_counts(probability, truth)),
            split,
        )
    }
    for name, otsu in otsu_predictors(samples).items():
        figures[name] = evaluate(otsu, samples, _OTSU_THRESHOLD, split=split)
    known = sorted(set(named))
    return Comparison(
        figures[MODEL],
        {
            "compared": {name: summary(found) for name, found in figures.items()},
            "sources": {
                source: {
                    name: summary([one for one, its in zip(found, named, strict=True) if its == source])
                    for name, found in figures.items()
                }
                for source in (known if len(known) > 1 else [])
            },
            "calibration": calibration(counts),
            "dice_by_threshold": dice_by_threshold(counts),
        },
    )
