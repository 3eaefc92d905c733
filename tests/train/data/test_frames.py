"""What the network is shown in training and in validation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from discs import disc_frame
from torchvision.transforms import v2

from breastseg_deploy.preprocess.gabor import edge_channel_reference
from breastseg_deploy.preprocess.tensor import network_input
from breastseg_train.data.augment import ELASTIC_ALPHA_PX, ELASTIC_SIGMA_PX, Augmentation
from breastseg_train.data.dataset import read_data_set, read_frame
from breastseg_train.data.frames import TrainingFrames, WholeFrames
from breastseg_train.data.sampler import Draw


def rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


def test_a_whole_frame_is_the_runtimes_own_network_input(data_root: Path) -> None:
    sample = read_data_set(data_root, ["val"]).splits["val"][0]
    tensor, truth = WholeFrames([sample])[0]
    assert np.array_equal(tensor.numpy(), network_input(read_frame(sample.image)[None])[0])
    assert truth.shape == (1, 64, 64)
    assert set(truth.unique().tolist()) == {0.0, 1.0}


def test_the_edge_channel_is_computed_after_augmentation(data_root: Path) -> None:
    sample = read_data_set(data_root, ["train"]).splits["train"][0]
    augmentation = Augmentation(crop_px=64, brightness_contrast=0.2)
    frames = TrainingFrames([sample], augmentation)
    mask = np.zeros((64, 64), np.uint8)
    for seed in range(5):
        changed, _ = augmentation(read_frame(sample.image), mask, seed)
        tensor, _ = frames[Draw(0, seed)]
        assert tensor[3].numpy() == pytest.approx(edge_channel_reference(changed), abs=1e-5)


def test_a_crop_has_the_size_that_was_asked_for(data_root: Path) -> None:
    sample = read_data_set(data_root, ["train"]).splits["train"][0]
    large = np.repeat(np.repeat(read_frame(sample.image), 2, axis=0), 2, axis=1)
    frame, mask = Augmentation(crop_px=96, brightness_contrast=0.2)(large, large[..., 0], 3)
    assert (frame.shape, mask.shape) == ((96, 96, 3), (96, 96))


def test_the_same_seed_gives_the_same_crop_and_another_seed_another() -> None:
    frame, mask = disc_frame(0, 4)
    augmentation = Augmentation(crop_px=64, brightness_contrast=0.2)
    first, again, other = (augmentation(rgb(frame), mask // 255, seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_augmentation_leaves_the_global_generator_as_it_was() -> None:
    frame, mask = disc_frame(0, 4)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    Augmentation(64, 0.2)(rgb(frame), mask // 255, 5)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_frame_and_mask_are_deformed_alike() -> None:
    _, mask = disc_frame(3, 4)
    augmentation = Augmentation(crop_px=64, brightness_contrast=0.0)
    for seed in range(40):  # all combinations of flips, turns and deformation
        frame, truth = augmentation(rgb(mask), mask // 255, seed)
        disagreement = np.mean((frame[..., 0] > 127) != (truth > 0))
        assert disagreement < 0.02  # bilinear against nearest, along deformed borders


def test_elastic_deformation_moves_pixels_by_the_papers_alpha_times_smoothed_noise() -> None:
    """alpha times the spread of uniform noise after a Gaussian of sigma 9: 120 x 0.577 / (2 sqrt(pi) 9) = 2.2 px."""
    elastic = v2.ElasticTransform(alpha=2 * ELASTIC_ALPHA_PX, sigma=ELASTIC_SIGMA_PX)
    torch.manual_seed(0)
    side_px = 256
    ramp = torch.arange(side_px, dtype=torch.float32).expand(1, side_px, side_px)
    moved_px = (elastic(ramp) - ramp)[0, 40:-40, 40:-40]
    assert moved_px.std().item() == pytest.approx(2.2, rel=0.25)


def test_brightness_varies_within_its_range() -> None:
    frame = np.full((64, 64, 3), 100, np.uint8)
    augmentation = Augmentation(crop_px=64, brightness_contrast=0.2)
    means = [augmentation(frame, frame[..., 0] * 0, seed)[0].max() for seed in range(60)]
    assert min(means) in range(79, 90)
    assert max(means) in range(111, 122)


def test_patch_sampling_shows_a_rare_cell_in_about_half_of_the_crops_and_more() -> None:
    """One 6 x 6 cell in 256 x 256: a random 64 px crop shows its centre in (64 / 193)^2 at most, 11 %."""
    frame = np.full((256, 256, 3), 20, np.uint8)
    mask = np.zeros((256, 256), np.uint8)
    mask[40:46, 200:206] = 1
    shares = {}
    for patch_sampling in (False, True):
        augmentation = Augmentation(64, 0.2, patch_sampling=patch_sampling)
        shares[patch_sampling] = np.mean([augmentation(frame, mask, seed)[1].any() for seed in range(60)])
    assert shares[False] < 0.3
    assert 0.4 < shares[True] < 0.8


@pytest.mark.parametrize("corner", [(0, 0), (0, 127), (127, 0), (127, 127)])
def test_a_crop_around_a_cell_at_the_border_stays_inside_the_frame(corner: tuple[int, int]) -> None:
    mask = np.zeros((128, 128), np.uint8)
    mask[corner] = 1
    frame = np.repeat(255 * mask[..., None], 3, axis=2)
    augmentation = Augmentation(64, 0.0, patch_sampling=True)
    for seed in range(8):
        crop, truth = augmentation(frame, mask, seed)
        assert crop.shape == (64, 64, 3)
        assert truth.shape == (64, 64)


def test_patch_sampling_takes_frames_without_cells_as_they_come() -> None:
    frame = np.zeros((96, 96, 3), np.uint8)
    assert Augmentation(64, 0.2, patch_sampling=True)(frame, frame[..., 0], 0)[1].shape == (64, 64)
