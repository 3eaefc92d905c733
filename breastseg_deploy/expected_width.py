"""How wide structures ought to be in a frame of that brightness and noise: what shows a wrong pixel size.

Frames of several sources hold structures of very different widths, so a width alone says little. What else a frame
looks like tells its source to some degree, and leaves of the width what its source does not explain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

PREDICTORS = ("dark", "median", "bright", "noise", "foreground")
"""Features that a change of the pixel size leaves much as they are."""
LEAST_FRAMES = 100
"""Frames with cells that 21 weights are fitted to, at least."""
_RIDGE = 1.0
_FURTHEST = 3.0
"""Standard deviations beyond which a predictor is taken for no further: a square soon leaves all that was seen."""
_FOLDS = 5


class ExpectedWidth(BaseModel):
    """A polynomial of second degree in the standardised `PREDICTORS`, for log2 of the width.

    Attributes:
        means, deviations: of the predictors.
        weights: of 1, of each predictor, and of the product of each pair in the order of `numpy.triu_indices`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    means: tuple[float, ...]
    deviations: tuple[float, ...]
    weights: tuple[float, ...]

    def excess(self, measures: Mapping[str, float]) -> float:
        """log2 of the frame's width over the expected one; NaN for a frame without cells."""
        terms = _terms(_predictors([measures]), np.array(self.means), np.array(self.deviations))
        return float(measures["width"] - (terms @ np.array(self.weights))[0])


def fit_expected_width(measured: Sequence[Mapping[str, float]]) -> tuple[ExpectedWidth, NDArray[np.float64]] | None:
    """Fit the polynomial to frames with cells, by least squares with a ridge.

    Returns:
        It, and for each frame the excess over what the other four fifths of the frames let expect; None of fewer than
        `LEAST_FRAMES` frames.
    """
    if len(measured) < LEAST_FRAMES:
        return None
    left_out = np.empty(len(measured))
    for fold in range(_FOLDS):
        others = [one for number, one in enumerate(measured) if number % _FOLDS != fold]
        fitted = _fitted(others)
        left_out[fold::_FOLDS] = [fitted.excess(one) for one in measured[fold::_FOLDS]]
    return _fitted(measured), left_out


def _fitted(measured: Sequence[Mapping[str, float]]) -> ExpectedWidth:
    predictors = _predictors(measured)
    means, deviations = predictors.mean(axis=0), np.maximum(predictors.std(axis=0), 1e-6)
    terms = _terms(predictors, means, deviations)
    ridge = _RIDGE * np.eye(terms.shape[1])
    ridge[0, 0] = 0.0  # the mean width is no matter of taste
    widths = np.array([one["width"] for one in measured])
    weights = np.linalg.solve(terms.T @ terms + ridge, terms.T @ widths)
    return ExpectedWidth(
        means=tuple(means.tolist()), deviations=tuple(deviations.tolist()), weights=tuple(weights.tolist())
    )


def _predictors(measured: Sequence[Mapping[str, float]]) -> NDArray[np.float64]:
    return np.array([[one[name] for name in PREDICTORS] for one in measured], np.float64)


def _terms(
    predictors: NDArray[np.float64], means: NDArray[np.float64], deviations: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(N, 21): 1, the standardised predictors, their squares and products."""
    standard = np.clip((predictors - means) / deviations, -_FURTHEST, _FURTHEST)
    first, second = np.triu_indices(standard.shape[1])
    return np.column_stack([np.ones(len(standard)), standard, standard[:, first] * standard[:, second]])
