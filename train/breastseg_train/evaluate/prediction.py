"""Probabilities of a checkpoint, and the paper's test-time augmentation over any predictor."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from breastseg_deploy.errors import ArgumentError
from breastseg_deploy.preprocess.tensor import network_input
from breastseg_train.evaluate.evaluation import Predictor
from breastseg_train.network.checkpoint import Checkpoint


def checkpoint_predictor(checkpoint: Checkpoint) -> Predictor:
    """A predictor that runs the checkpoint's model in float32, preprocessed by the runtime's own code."""
    model, gabor = checkpoint.model, checkpoint.model.architecture.gabor

    def predict(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            probability = torch.sigmoid(model(torch.from_numpy(network_input(frames, gabor))))
        return np.asarray(probability[:, 0].numpy())

    return predict


def seven_fold(predict: Predictor) -> Predictor:
    """Average a predictor over seven views of each frame: identity, two flips, three quarter turns, transpose.

    Raises:
        ArgumentError: by the predictor that is returned, for frames that are not square.

    Source: the paper, section III H, "7-fold augmentation with averaging"; which seven is ours
    (docs/decisions/training.md).
    """

    def predict_averaged(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.stack([seen_upright(predict(seven_views(frame))).mean(axis=0) for frame in frames])

    return predict_averaged


def seven_views(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(S, S, 3) seen in seven ways; (7, S, S, 3).

    Raises:
        ArgumentError: the frame is not square.
    """
    height, width = frame.shape[:2]
    if height != width:
        raise ArgumentError(f"seven-fold averaging turns frames and needs square ones, got {height} x {width}")
    turned = [np.rot90(frame, quarter) for quarter in (1, 2, 3)]
    return np.stack([frame, frame[:, ::-1], frame[::-1], *turned, frame.swapaxes(0, 1)])


def seen_upright(views: NDArray[np.float32]) -> NDArray[np.float32]:
    """(7, S, S) in the order of `seven_views`, each brought back to the frame's own orientation."""
    turned = [np.rot90(views[2 + quarter], -quarter) for quarter in (1, 2, 3)]
    return np.stack([views[0], views[1, :, ::-1], views[2, ::-1], *turned, views[6].T])
