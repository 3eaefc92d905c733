"""Phantoms are the same everywhere, their masks exact, and 60 % of them empty."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from breastseg_deploy import phantom
from breastseg_deploy.phantom import phantom_frame, phantom_frames

SIZES = [(32, 32), (64, 96), (128, 128)]


@pytest.mark.parametrize("size", SIZES)
def test_number_and_size_fix_every_pixel(size: tuple[int, int]) -> None:
    first, second = phantom_frame(7, size), phantom_frame(7, size)
    np.testing.assert_array_equal(first.frame, second.frame)
    np.testing.assert_array_equal(first.mask, second.mask)


def test_another_process_makes_the_same_pixels() -> None:
    code = (
        "import hashlib; from breastseg_deploy.phantom import phantom_frame as p; f = p(2, (64, 96)); "
        "print(hashlib.sha256(f.frame.tobytes() + f.mask.tobytes()).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    here = phantom_frame(2, (64, 96))
    assert hashlib.sha256(here.frame.tobytes() + here.mask.tobytes()).hexdigest() == there


@pytest.mark.parametrize("size", SIZES)
def test_of_any_five_consecutive_frames_exactly_three_are_empty(size: tuple[int, int]) -> None:
    empty = [not frame.mask.any() for frame in phantom_frames(60, size)]
    assert all(sum(empty[start : start + 5]) == 3 for start in range(56))


@pytest.mark.parametrize("size", SIZES)
def test_frames_and_masks_have_the_size_asked_for_and_masks_hold_0_and_1(size: tuple[int, int]) -> None:
    for made in phantom_frames(5, size):
        assert made.frame.shape == made.mask.shape == size
        assert made.frame.dtype == made.mask.dtype == np.uint8
        assert set(np.unique(made.mask)) <= {0, 1}


def test_no_two_frames_are_alike() -> None:
    assert len({made.frame.tobytes() for made in phantom_frames(20, (64, 64))}) == 20


def test_names_are_stable_and_distinct() -> None:
    assert [made.name for made in phantom_frames(3, (32, 32))] == ["phantom-0000", "phantom-0001", "phantom-0002"]


def test_nuclei_are_brighter_than_the_background() -> None:
    made = phantom_frame(0, (256, 256))
    assert made.frame[made.mask == 1].mean() > 3 * made.frame[made.mask == 0].mean()


def test_frames_hold_noise_also_where_there_are_no_cells() -> None:
    made = phantom_frame(1, (128, 128))
    assert not made.mask.any()
    assert made.frame.std() > 0.5


def test_the_list_is_the_frames_one_by_one() -> None:
    np.testing.assert_array_equal(phantom_frames(3, (32, 32))[2].frame, phantom_frame(2, (32, 32)).frame)


def test_module_says_that_phantoms_are_no_clinical_evidence() -> None:
    assert "says nothing about patients" in (phantom.__doc__ or "")
    assert "test object" in (phantom.__doc__ or "")
