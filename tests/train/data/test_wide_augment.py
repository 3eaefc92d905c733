"""Changes as wide as other microscopes make them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from discs import disc_frame

from breastseg_train.data.wide_augment import SCALE, WideAugmentation

SEEDS = range(60)


def grey_disc() -> tuple[np.ndarray, np.ndarray]:
    """A bright disc of radius 12 in the middle of a dark frame, 128 x 128."""
    rows, columns = np.mgrid[:128, :128] - 64
    mask = (rows**2 + columns**2 < 144).astype(np.uint8)
    return np.repeat((20 + 100 * mask)[..., np.newaxis], 3, axis=2).astype(np.uint8), mask


def test_frame_and_mask_come_back_as_crops_of_that_size() -> None:
    frame, mask = WideAugmentation(64)(*grey_disc(), seed=1)
    assert (frame.shape, frame.dtype) == ((64, 64, 3), np.uint8)
    assert (mask.shape, mask.dtype) == ((64, 64), np.uint8)
    assert set(np.unique(mask)) <= {0, 1}


def test_the_same_seed_changes_alike_and_another_does_not() -> None:
    change = WideAugmentation(64)
    first, again, other = (change(*grey_disc(), seed) for seed in (3, 3, 4))
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


def test_the_draws_of_others_go_on_as_if_nothing_had_been_drawn() -> None:
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    first = torch.rand(1)
    WideAugmentation(64)(*grey_disc(), seed=1)
    assert torch.equal(torch.cat([first, torch.rand(1)]), expected)


def test_a_grey_frame_stays_grey() -> None:
    change = WideAugmentation(64)
    for seed in SEEDS:
        frame, _ = change(*grey_disc(), seed)
        assert (frame == frame[..., :1]).all()


def test_a_colour_frame_keeps_its_colours_apart() -> None:
    frame, mask = grey_disc()
    frame[..., 2] = 0
    changed, _ = WideAugmentation(64)(frame, mask, seed=0)
    assert not (changed == changed[..., :1]).all()


def test_the_mask_lies_where_the_light_is() -> None:
    change = WideAugmentation(96)
    for seed in SEEDS:
        frame, mask = change(*grey_disc(), seed)
        if 0 < mask.sum() < mask.size:
            assert frame[mask == 1].mean() > frame[mask == 0].mean()


def test_half_of_the_crops_lie_around_a_cell() -> None:
    frame, mask = np.zeros((512, 512, 3), np.uint8), np.zeros((512, 512), np.uint8)
    mask[250:262, 250:262] = 1
    change = WideAugmentation(64)
    hits = sum(change(frame, mask, seed)[1].any() for seed in range(200))
    assert 90 < hits < 130  # a crop of 32 to 128 px anywhere rarely meets the cell


def test_cells_are_seen_at_half_to_twice_their_size() -> None:
    change = WideAugmentation(64)
    areas = [change(*grey_disc(), seed)[1].sum() for seed in range(200)]
    whole = grey_disc()[1].sum()
    smallest = min(area for area in areas if area > 0.2 * whole)
    assert smallest < 0.4 * whole
    assert 3 * whole < max(areas) <= SCALE[1] ** 2 * 1.05 * whole


@pytest.mark.parametrize(("share", "darker"), [(0.0, False), (1.0, True)])
def test_light_is_inverted_only_where_that_is_declared(share: float, darker: bool) -> None:
    change = WideAugmentation(96, inverted_share=share)
    for seed in SEEDS:
        frame, mask = change(*grey_disc(), seed)
        if 0 < mask.sum() < mask.size and frame.max() > 60:
            inside, outside = frame[mask == 1].mean(), frame[mask == 0].mean()
            assert (inside < outside) == darker or inside == outside


def test_a_frame_smaller_than_the_widest_window_is_seen_whole() -> None:
    frame, mask = disc_frame(0, 3)
    changed, truth = WideAugmentation(64)(np.repeat(frame[..., np.newaxis], 3, 2), mask // 255, seed=2)
    assert changed.shape == (64, 64, 3)
    assert truth.shape == (64, 64)
