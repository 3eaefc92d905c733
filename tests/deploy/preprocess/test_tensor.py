"""The network's tensor, against its definition in float64."""

from __future__ import annotations

import numpy as np
import pytest

from breastseg_deploy.errors import ArgumentError
from breastseg_deploy.preprocess.fft import edge_channel
from breastseg_deploy.preprocess.gabor import GaborParameters
from breastseg_deploy.preprocess.tensor import network_input

FRAMES = np.random.default_rng(0).integers(0, 256, (2, 40, 56, 3), np.uint8)


def test_tensor_is_float32_channels_first_and_contiguous() -> None:
    tensor = network_input(FRAMES)
    assert tensor.shape == (2, 4, 40, 56)
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous


def test_colours_are_normalised_by_imagenet_mean_and_standard_deviation() -> None:
    expected = (FRAMES / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(network_input(FRAMES)[:, :3], expected.transpose(0, 3, 1, 2), rtol=0, atol=1e-6)


def test_fourth_channel_is_the_edge_channel_as_it_is() -> None:
    tensor = network_input(FRAMES)
    for frame, planes in zip(FRAMES, tensor, strict=True):
        np.testing.assert_array_equal(planes[3], edge_channel(frame))


def test_bank_parameters_reach_the_edge_channel() -> None:
    parameters = GaborParameters((6.0,), orientations=2)
    np.testing.assert_array_equal(network_input(FRAMES, parameters)[1, 3], edge_channel(FRAMES[1], parameters))


def test_threads_change_no_bit() -> None:
    np.testing.assert_array_equal(network_input(FRAMES, threads=2), network_input(FRAMES))


def test_frames_of_a_batch_do_not_touch_one_another() -> None:
    np.testing.assert_array_equal(network_input(FRAMES)[1], network_input(FRAMES[1:])[0])


def test_frames_under_32_pixels_are_refused() -> None:
    with pytest.raises(ArgumentError, match="at least 32 x 32 px, got 16 x 64"):
        network_input(np.zeros((1, 16, 64, 3), np.uint8))
