"""The runtime against the paper's pipeline, in one run: PyTorch eager in float32 behind 24 x `cv2.filter2D`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from paired import timed_in_turn

from breastseg_deploy import Segmenter
from breastseg_deploy.contract import IMAGENET_MEAN, IMAGENET_STD
from breastseg_deploy.edge_fft import edge_channel
from breastseg_deploy.gabor import LUMA_BT601, GaborParameters, gabor_bank
from breastseg_deploy.metrics import dice
from breastseg_deploy.phantom import phantom_frame
from breastseg_train.checkpoint import load_checkpoint

MIN_EDGE_RATIO = 3.0


def filter2d_edge(rgb: NDArray[np.uint8], parameters: GaborParameters) -> NDArray[np.float32]:
    """The edge channel as the paper's authors would write it: 24 calls of OpenCV's filter2D and a maximum."""
    luma = rgb.astype(np.float32) @ np.array(LUMA_BT601, np.float32) / 255
    return np.max([cv2.filter2D(luma, -1, kernel) for kernel in gabor_bank(parameters).astype(np.float32)], axis=0)


def paper_pipeline(name: str) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    """Frame (H, W, 3) to mask (H, W) by PyTorch in eager mode."""
    checkpoint = load_checkpoint(name)
    mean, std = np.array(IMAGENET_MEAN, np.float32), np.array(IMAGENET_STD, np.float32)

    def run(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        colours = (rgb / np.float32(255) - mean) / std
        tensor = np.dstack([colours, filter2d_edge(rgb, checkpoint.model.architecture.gabor)]).transpose(2, 0, 1)
        with torch.inference_mode():
            probability = checkpoint.model(torch.from_numpy(tensor[None].astype(np.float32))).sigmoid()[0, 0].numpy()
        return (probability >= checkpoint.threshold).astype(np.uint8)

    return run


def rgb_phantom(size_px: tuple[int, int]) -> NDArray[np.uint8]:
    return np.repeat(phantom_frame(0, size_px).frame[:, :, None], 3, axis=2)


def test_edge_channel_by_fft_is_three_times_as_fast_as_filter2d() -> None:
    rgb, parameters = rgb_phantom((512, 512)), GaborParameters()
    np.testing.assert_allclose(edge_channel(rgb, parameters), filter2d_edge(rgb, parameters), atol=1e-5)
    threads = cv2.getNumThreads()
    paired = timed_in_turn(
        lambda: edge_channel(rgb, parameters, threads), lambda: filter2d_edge(rgb, parameters), pairs=15
    )
    print(json.dumps({"benchmark": "edge channel 512 x 512", "threads": threads, **asdict(paired)}))
    assert paired.ratio >= MIN_EDGE_RATIO


def test_runtime_is_faster_than_the_papers_pipeline(bundle: Path, checkpoint_name: str) -> None:
    paper = paper_pipeline(checkpoint_name)
    with Segmenter.open(bundle) as segment:
        rgb = rgb_phantom(segment.manifest.frame.size_px)
        agreement = dice(segment(rgb).mask, paper(rgb))
        paired = timed_in_turn(lambda: segment(rgb), lambda: paper(rgb), pairs=7)
        print(
            json.dumps(
                {
                    "benchmark": "frame to mask",
                    "encoder": segment.manifest.encoder,
                    "backend": segment.backend,
                    "size_px": segment.manifest.frame.size_px,
                    "mask_dice": agreement,
                    **asdict(paired),
                }
            )
        )
    assert agreement >= 0.9999
    assert paired.ratio > 1
