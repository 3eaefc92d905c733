"""The empty-frame gate: fitted on the frames that trained the model, its threshold on frames that trained nothing."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from breastseg_deploy.errors import ArgumentError, DataError
from breastseg_deploy.gate import GateCalibration
from breastseg_deploy.preprocess.tensor import network_input
from breastseg_deploy.progress import followed
from breastseg_train.data.dataset import DataSet, Sample, read_frame, read_mask
from breastseg_train.network.architecture import Architecture
from breastseg_train.network.model import SegmentationModel

RECALL = 0.995
LEVELS = 2
"""How many of the encoder's last features the gate reads. Two skipped more of the empty validation frames than one."""

_DECAY = 1e-3
_STEPS = 500
_LEAST_SPREAD = 1e-3


class EmptyFrameGate(nn.Module):
    """A linear score of the mean and the maximum of every channel in the encoder's last features.

    Input: the features of `SegmentationModel.encode`; output (N,), the higher the likelier that a frame holds cells.

    Args:
        channels: of the features that it reads.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.score = nn.Linear(2 * sum(channels), 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Scores (N,) of what `SegmentationModel.encode` made of N frames."""
        scores: Tensor = self.score(pooled(features))[:, 0]
        return scores


@dataclass(frozen=True)
class FittedGate:
    """A gate and what its threshold promises."""

    gate: EmptyFrameGate
    calibration: GateCalibration


def gate_for(model: SegmentationModel) -> EmptyFrameGate:
    """A gate with random weights that fits a model.

    Raises:
        ArgumentError: the model is not the paper's, so nobody knows where its encoder ends.
    """
    _check_architecture(model.architecture)
    return EmptyFrameGate(model.unet.encoder.out_channels[-LEVELS:])


def fit_gate(
    model: SegmentationModel,
    data: DataSet,
    fit_on: Sequence[str],
    calibrate_on: Sequence[str],
    recall: float = RECALL,
    on_frame: Callable[[], object] = lambda: None,
) -> FittedGate:
    """Fit a gate by logistic regression and set its threshold; the model stays as it is.

    Args:
        model: in evaluation mode.
        data: checked.
        fit_on: splits for the regression; those that trained the model will do.
        calibrate_on: splits for the threshold: no frame of them may have trained model or gate.
        recall: share of frames with cells that must get through, see `gate.GateCalibration`.
        on_frame: called after each frame, for a progress bar.

    Raises:
        ArgumentError: a model that is not the paper's, a recall outside 0 to 1, or splits that are named twice.
        DataError: too few frames with cells for that recall, no empty frame to fit on, frames of several sizes, or a
            frame that comes twice, which would count for two.
    """
    _check_architecture(model.architecture)
    check_recall(recall)
    both = ", ".join(sorted(set(fit_on) & set(calibrate_on)))
    if both:
        raise ArgumentError(
            f"a threshold is set on frames that trained nothing, got {both} for both; name other splits"
        )
    fitting, calibrating = data.samples(fit_on), data.samples(calibrate_on)
    size_px = _one_size_and_no_frame_twice([*fitting, *calibrating])
    with_cells, unseen_with_cells = _with_cells(fitting), _with_cells(calibrating)
    rank(int(unseen_with_cells.sum()), recall)  # too few frames are refused before the long work
    if with_cells.all() or not with_cells.any():
        raise DataError(f"a gate is fitted on frames with cells and on empty ones; {', '.join(fit_on)} lack one kind")
    gate = gate_for(model)
    weights, bias = _logistic_regression(_pooled_frames(model, fitting, on_frame), with_cells)
    with torch.no_grad():
        gate.score.weight.copy_(torch.from_numpy(weights[np.newaxis]))
        gate.score.bias.copy_(torch.tensor([bias]))
    unseen = torch.from_numpy(_pooled_frames(model, calibrating, on_frame)).float()
    with torch.inference_mode():
        scores = gate.score(unseen)[:, 0].numpy()
    threshold, miss_bound = conformal_threshold(scores[unseen_with_cells], recall)
    # Empty frames take no part in the threshold: what they gain is reported, what frames with cells lose is promised.
    empty = scores[~unseen_with_cells]
    calibration = GateCalibration(
        recall=recall,
        threshold=threshold,
        miss_bound=miss_bound,
        frames_with_cells=int(unseen_with_cells.sum()),
        frames_empty=len(empty),
        empty_skipped=float((empty < threshold).mean()) if len(empty) else None,
        size_px=size_px,
        fitted_on=", ".join(fit_on),
        calibrated_on=", ".join(calibrate_on),
        data_sha256=hashlib.sha256("".join(sample.sha256 for sample in (*fitting, *calibrating)).encode()).hexdigest(),
    )
    return FittedGate(gate.eval(), calibration)


def conformal_threshold(scores_with_cells: NDArray[np.floating], recall: float) -> tuple[float, float]:
    """The highest threshold that a recall allows, and the bound on misses that it comes with.

    Args:
        scores_with_cells: (n,) scores of calibration frames with cells.
        recall: asked for.

    Returns:
        The k-th smallest score and k / (n + 1), with the largest k for which that is at most 1 - recall.

    Raises:
        ArgumentError, DataError: as `rank`.
    """
    k = rank(len(scores_with_cells), recall)
    return float(np.sort(scores_with_cells)[k - 1]), k / (len(scores_with_cells) + 1)


def rank(frames_with_cells: int, recall: float) -> int:
    """Which score from below becomes the threshold: k = floor((1 - recall) (n + 1)).

    Raises:
        ArgumentError: a recall outside 0 to 1.
        DataError: too few frames for any k of at least 1.
    """
    check_recall(recall)
    allowed = 1 - Fraction(str(recall))  # in binary, 1 - 0.995 of 200 frames could come out just under 1
    k = math.floor(allowed * (frames_with_cells + 1))
    if k < 1:
        needed = math.ceil(1 / allowed) - 1
        reachable = math.floor(10000 * frames_with_cells / (frames_with_cells + 1)) / 10000
        raise DataError(
            f"a recall of {recall} needs at least {needed} frames with cells to calibrate on, got {frames_with_cells}; "
            + (f"give more, or ask for {reachable} at most" if frames_with_cells else "give some")
        )
    return k


def check_recall(recall: float) -> None:
    """Refuse a recall that is no share.

    Raises:
        ArgumentError: outside 0 to 1.
    """
    if not 0 < recall < 1:
        raise ArgumentError(f"a recall lies between 0 and 1, both excluded, got {recall}")


def pooled(features: Sequence[Tensor]) -> Tensor:
    """Mean and maximum over each plane of the last features: (N, 2 C)."""
    last = features[-LEVELS:]
    return torch.cat(list(chain.from_iterable((one.mean(dim=(2, 3)), one.amax(dim=(2, 3))) for one in last)), dim=1)


def _with_cells(samples: Sequence[Sample]) -> NDArray[np.bool_]:
    return np.array([read_mask(sample.mask).any() for sample in followed(samples, "reading masks", "masks")], np.bool_)


def _pooled_frames(
    model: SegmentationModel, samples: Iterable[Sample], on_frame: Callable[[], object]
) -> NDArray[np.float64]:
    """Frames as a gate sees them: (F, 2 C)."""
    rows = []
    for sample in samples:
        tensor = torch.from_numpy(network_input(read_frame(sample.image)[np.newaxis], model.architecture.gabor))
        with torch.inference_mode():
            rows.append(pooled(model.encode(tensor))[0].double().numpy())
        on_frame()
    return np.stack(rows)


def _logistic_regression(rows: NDArray[np.float64], labels: NDArray[np.bool_]) -> tuple[NDArray[np.float64], float]:
    """Weights (K,) and bias on raw rows; the penalty is on standardised ones, both kinds of label weigh the same."""
    mean, spread = rows.mean(axis=0), rows.std(axis=0) + _LEAST_SPREAD
    inputs, targets = torch.from_numpy((rows - mean) / spread), torch.from_numpy(labels).double()
    weights = torch.zeros(rows.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    balance = torch.where(targets > 0, 0.5 / targets.mean(), 0.5 / (1 - targets.mean()))
    solver = torch.optim.LBFGS([weights, bias], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        error = functional.binary_cross_entropy_with_logits(inputs @ weights + bias, targets, weight=balance)
        total = error + _DECAY * weights.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    solver.step(loss)  # type: ignore[no-untyped-call]
    raw = weights.detach().numpy() / spread
    return raw, float(bias.item() - (raw * mean).sum())


def _check_architecture(architecture: Architecture) -> None:
    if not architecture.is_the_papers:
        raise ArgumentError(
            f"a gate reads the encoder of the paper's network, got {architecture.network} behind {architecture.front}; "
            "train with the preset paper or one that only changes its training"
        )


def _one_size_and_no_frame_twice(samples: Sequence[Sample]) -> tuple[int, int]:
    sizes: set[tuple[int, int]] = set()
    places: dict[bytes, Path] = {}
    for sample in followed(samples, "reading frames", "frames"):
        frame = read_frame(sample.image)
        sizes.add((frame.shape[0], frame.shape[1]))
        pixels = hashlib.sha256(frame.tobytes()).digest()
        if pixels in places:
            raise DataError(
                f"{sample.image} and {places[pixels]} are the same frame and would count for two; keep one of them, "
                "and name each split once"
            )
        places[pixels] = sample.image
    if len(sizes) != 1:
        raise DataError(f"a gate is calibrated for one frame size, got {sorted(sizes)}; cut the frames to one")
    return sizes.pop()
