"""Active learning by Monte Carlo dropout, as the paper tried and rejected it (Table II, section IV D).

Half of the frames start with their labels. After each round the frames of the other half that the model is least sure
of get the model's own masks as pseudo-labels and join the training; at the end all have joined. The paper names neither
the share nor the number of rounds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from breastseg_deploy.errors import ArgumentError
from breastseg_deploy.preprocess.tensor import network_input
from breastseg_deploy.progress import followed
from breastseg_deploy.storage import check_output_folder, make_folder, write_whole
from breastseg_train.data.dataset import Sample, read_data_set, read_frame, read_mask
from breastseg_train.network.checkpoint import Checkpoint, load_checkpoint
from breastseg_train.run.configuration import Configuration
from breastseg_train.run.run_folder import BEST, CURVES, FIGURES, LAST, RUN
from breastseg_train.run.training import train

LABELLED_SHARE = 0.5
PASSES = 8
"""Forward passes with dropout per frame."""
UNCERTAIN_ENTROPY_BITS = 0.5
"""A pixel of at least this predictive entropy counts as uncertain; 1 bit is the largest."""
LABELLED, PSEUDO, VALIDATION = "labelled", "pseudo", "validation"
ROUND = "round.json"


@dataclass(frozen=True)
class Uncertainty:
    """What the passes say of one frame.

    Attributes:
        mean_entropy_bits: predictive entropy, mean over the frame.
        uncertain: (H, W) bool, pixels of high entropy.
        mask: (H, W) uint8, 0 and 1, of the mean probability: the pseudo-label.
    """

    mean_entropy_bits: float
    uncertain: NDArray[np.bool_]
    mask: NDArray[np.uint8]


def train_actively(
    data_root: Path,
    run: Path,
    configuration: Configuration,
    *,
    train_on: Sequence[str] = ("train",),
    validate_on: Sequence[str] = ("val",),
) -> dict[str, Any]:
    """Train in rounds that share out the configuration's epochs, so that the budget is any other run's.

    Each round is validated at its end.

    Args:
        data_root: see `data.read_data_set`.
        run: folder of the run; each round has a run folder of its own inside, and the last one's files are copied up.
        configuration: with `active_learning_rounds` of at least 1 and dropout.
        train_on: splits to train on; half of their frames lose their labels.
        validate_on: splits to validate on.
        devices: see `training.train`.

    Returns:
        The figures of the last round, see `training.train`.

    Raises:
        ArgumentError: no dropout, so that all passes would agree; fewer epochs than rounds.
        DataError, OutputError, TrainingError: see `training.train`.
    """
    if not configuration.dropout:
        raise ArgumentError("active learning needs dropout over 0: without it every pass gives the same answer")
    check_output_folder(run, force=False)  # rounds do not go on where they were interrupted
    rounds = configuration.active_learning_rounds
    epochs = _epochs_of_each_round(configuration)
    data = read_data_set(data_root, [*train_on, *validate_on], configuration.crop_px)
    samples = data.samples(train_on)
    order = np.random.default_rng(configuration.seed).permutation(len(samples)).tolist()
    first = math.ceil(LABELLED_SHARE * len(samples))
    labelled, pool = [samples[i] for i in order[:first]], [samples[i] for i in order[first:]]
    pseudo_labelled: list[Sample] = []
    figures: dict[str, Any] = {}
    start_from: Path | None = None
    for number in range(rounds + 1):
        place = run / f"round-{number}"
        frames = {LABELLED: labelled, PSEUDO: pseudo_labelled, VALIDATION: data.samples(validate_on)}
        _lay_out(place / "data", frames)
        figures = train(
            place / "data",
            place / "run",
            replace(
                configuration,
                epochs=epochs[number],
                validate_every_epochs=epochs[number],
                active_learning_rounds=0,
            ),
            train_on=[LABELLED, PSEUDO] if pseudo_labelled else [LABELLED],
            validate_on=[VALIDATION],
            start_from=start_from,
        )
        start_from = place / "run" / BEST
        if number < rounds:
            share = math.ceil(len(pool) / (rounds - number))
            chosen, pool = _pseudo_label(place, pool, share, start_from)
            pseudo_labelled += chosen
    for name in (BEST, LAST, CURVES, FIGURES, RUN):
        write_whole(run / name, (place / "run" / name).read_bytes())
    return figures


def uncertainty(checkpoint: Checkpoint, frame: NDArray[np.uint8]) -> Uncertainty:
    """Predictive entropy of one (H, W, 3) uint8 RGB frame over passes with dropout (Gal & Ghahramani 2016); seeded."""
    model = checkpoint.model
    tensor = torch.from_numpy(network_input(frame[np.newaxis], model.architecture.gabor))
    total = torch.zeros(frame.shape[:2])
    with torch.inference_mode(), _dropout_on(model), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(PASSES):
            total += torch.sigmoid(model(tensor))[0, 0]
    mean = (total / PASSES).numpy().astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.nan_to_num(mean * np.log2(mean)) - np.nan_to_num((1 - mean) * np.log2(1 - mean))
    mask = (mean >= checkpoint.threshold).astype(np.uint8)
    return Uncertainty(float(entropy.mean()), entropy >= UNCERTAIN_ENTROPY_BITS, mask)


def _epochs_of_each_round(configuration: Configuration) -> list[int]:
    """Epochs of the training on labels alone and of each round after it; the last takes what is left over."""
    rounds = configuration.active_learning_rounds
    each = configuration.epochs // (rounds + 1)
    if not each:
        raise ArgumentError(
            f"{rounds} rounds of active learning and the training before them need at least {rounds + 1} epochs, "
            f"got {configuration.epochs}"
        )
    return [each] * rounds + [configuration.epochs - rounds * each]


def _pseudo_label(place: Path, pool: Sequence[Sample], count: int, model: Path) -> tuple[list[Sample], list[Sample]]:
    """Give the least certain frames of the pool the model's own masks.

    Returns:
        The samples with pseudo-labels, and the rest of the pool.
    """
    checkpoint = load_checkpoint(model)
    followed_pool = followed(pool, "uncertainty", "frames")
    seen = {sample: uncertainty(checkpoint, read_frame(sample.image)) for sample in followed_pool}
    ranked = sorted(pool, key=lambda sample: seen[sample].mean_entropy_bits, reverse=True)
    chosen, rest = ranked[:count], ranked[count:]
    masks = place / "pseudo-labels"
    make_folder(masks)
    for sample in chosen:
        _, png = cv2.imencode(".png", 255 * seen[sample].mask)
        write_whole(masks / f"{sample.name}.png", png.tobytes())
    uncertain = sum(int(seen[sample].uncertain.sum()) for sample in chosen)
    background = sum(int((seen[sample].uncertain & (read_mask(sample.mask) == 0)).sum()) for sample in chosen)
    report = {
        "pseudo_labelled": {sample.name: round(seen[sample].mean_entropy_bits, 6) for sample in chosen},
        "uncertain_pixels": uncertain,
        "uncertain_pixels_in_background": round(background / uncertain, 6) if uncertain else None,
    }
    write_whole(place / ROUND, json.dumps(report, indent=1).encode())
    return [replace(sample, mask=masks / f"{sample.name}.png") for sample in chosen], rest


def _lay_out(root: Path, splits: dict[str, Sequence[Sample]]) -> None:
    """A data set of links to frames and masks, so that a round is a training like any other."""
    for split, samples in splits.items():
        for sample in samples:
            for kind, source in (("images", sample.image), ("masks", sample.mask)):
                make_folder(root / split / kind)
                (root / split / kind / f"{sample.split}-{sample.name}{source.suffix}").symlink_to(source.resolve())


@contextmanager
def _dropout_on(model: nn.Module) -> Iterator[None]:
    """Dropout as in training, all else as in evaluation."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Dropout | nn.Dropout2d)]
    for layer in layers:
        layer.train()
    try:
        yield
    finally:
        for layer in layers:
            layer.eval()
