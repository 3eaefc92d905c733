"""Rounds of pseudo-labels on the frames that the model is least sure of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from discs import disc_frame, write_frame
from small_unet import UNET

from breastseg_deploy.errors import ArgumentError, OutputError
from breastseg_train.data.dataset import read_data_set, read_frame, read_mask
from breastseg_train.evaluate.prediction import checkpoint_predictor
from breastseg_train.network.checkpoint import Checkpoint, load_checkpoint
from breastseg_train.network.model import SegmentationModel
from breastseg_train.paper.active_learning import ROUND, train_actively, uncertainty
from breastseg_train.run.run_folder import BEST, FIGURES

TINY = replace(
    UNET,
    preset="tiny-actively",
    network="attention-unet",
    dropout=0.3,
    epochs=5,
    loss="hybrid",
    active_learning_rounds=2,
)


@pytest.fixture
def checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    return Checkpoint(SegmentationModel(TINY.architecture()).eval())


@pytest.fixture(scope="module")
def eight_frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for i in range(8):
        write_frame(root, "train", f"train-{i}", *disc_frame(i, cells=3))
    for i in range(2):
        write_frame(root, "val", f"val-{i}", *disc_frame(100 + i, cells=3))
    return root


@pytest.fixture(scope="module")
def run(eight_frames: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train_actively(eight_frames, folder, TINY)
    return folder


def test_every_frame_joins_in_the_end_the_later_half_with_the_models_own_masks(run: Path) -> None:
    rounds = [
        read_data_set(run / f"round-{n}" / "data", splits)
        for n, splits in enumerate(
            [("labelled", "validation"), ("labelled", "pseudo", "validation"), ("labelled", "pseudo", "validation")]
        )
    ]
    counts = [{split: len(samples) for split, samples in data.splits.items()} for data in rounds]
    assert counts == [
        {"labelled": 4, "validation": 2},
        {"labelled": 4, "pseudo": 2, "validation": 2},
        {"labelled": 4, "pseudo": 4, "validation": 2},
    ]
    # The pseudo-labels are what the round's own model says, and not the masks that stand on the disk.
    model = load_checkpoint(run / "round-0" / "run" / BEST)
    for sample in rounds[1].splits["pseudo"]:
        assert np.array_equal(read_mask(sample.mask), uncertainty(model, read_frame(sample.image)).mask)
    assert (run / BEST).read_bytes() == (run / "round-2" / "run" / BEST).read_bytes()
    assert (run / FIGURES).is_file()


def test_the_least_certain_frames_come_first(eight_frames: Path, run: Path) -> None:
    report = json.loads((run / "round-0" / ROUND).read_text())
    model = load_checkpoint(run / "round-0" / "run" / BEST)
    labelled = {s.image.resolve() for s in read_data_set(run / "round-0" / "data", ["labelled"]).splits["labelled"]}
    pool = [s for s in read_data_set(eight_frames, ["train"]).splits["train"] if s.image.resolve() not in labelled]
    entropy = {s.name: uncertainty(model, read_frame(s.image)).mean_entropy_bits for s in pool}
    assert set(report["pseudo_labelled"]) == set(sorted(entropy, key=entropy.__getitem__)[-2:])


def test_rounds_share_out_the_epochs_and_go_on_from_the_last_weights(run: Path) -> None:
    epochs = [load_checkpoint(run / f"round-{n}" / "run" / BEST).details["configuration"]["epochs"] for n in range(3)]
    assert epochs == [1, 1, 3]


def test_entropy_is_one_bit_where_the_model_is_undecided(checkpoint: Checkpoint) -> None:
    frame = np.repeat(disc_frame(0, 3)[0][..., None], 3, axis=2)
    for weight in checkpoint.model.parameters():
        torch.nn.init.zeros_(weight)
    seen = uncertainty(checkpoint, frame)
    assert seen.mean_entropy_bits == pytest.approx(1)
    assert seen.uncertain.all()
    for bias in (1e4, -1e4):  # log(0) must not become NaN
        list(checkpoint.model.parameters())[-1].data.fill_(bias)
        assert uncertainty(checkpoint, frame).mean_entropy_bits == pytest.approx(0)


def test_passes_are_seeded_and_leave_the_model_in_evaluation(checkpoint: Checkpoint) -> None:
    frame = np.repeat(disc_frame(1, 3)[0][..., None], 3, axis=2)
    before = checkpoint_predictor(checkpoint)(frame[None])
    first, second = uncertainty(checkpoint, frame), uncertainty(checkpoint, frame)
    assert first.mean_entropy_bits == second.mean_entropy_bits
    assert np.array_equal(checkpoint_predictor(checkpoint)(frame[None]), before)


def test_without_dropout_there_is_nothing_to_be_unsure_of(eight_frames: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="needs dropout over 0"):
        train_actively(eight_frames, tmp_path / "run", replace(TINY, dropout=0.0))


def test_rounds_that_were_interrupted_are_not_mixed_with_new_ones(eight_frames: Path, tmp_path: Path) -> None:
    (tmp_path / "round-0").mkdir()
    with pytest.raises(OutputError, match="is not empty"):
        train_actively(eight_frames, tmp_path, TINY)


def test_fewer_epochs_than_rounds_are_refused(eight_frames: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="need at least 3 epochs"):
        train_actively(eight_frames, tmp_path / "run", replace(TINY, epochs=2))
