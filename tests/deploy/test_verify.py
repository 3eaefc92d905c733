"""The second way through the bundle, and Dice against ground truth."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from host_network import Float16Network, HostNetwork, all_passed
from surgery import artefact, edit_manifest, put_constant_model

from breastseg_deploy import BackendError, FrameError, ParityError, Segmenter
from breastseg_deploy.backends.registry import BACKENDS
from breastseg_deploy.backends.select import Choice
from breastseg_deploy.bundle import FP16, NETWORK_FP16, Bundle
from breastseg_deploy.gpu.pipeline import GpuPipeline
from breastseg_deploy.io.images import find_frames, png_bytes
from breastseg_deploy.manifest import ParityLimits
from breastseg_deploy.metrics import dice
from breastseg_deploy.phantom import phantom_frames
from breastseg_deploy.verify import _Judge, check_frames

SIDE = 128
LOOSE = {"worst_dice": 0.5, "mean_dice": 0.5, "dice_change": 1.0}
"""The float16 limits are the exporter's business and tested there; here they must not hide what is counted."""


def write_data_set(folder: Path, count: int = 5) -> Path:
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for phantom in phantom_frames(count, (SIDE, SIDE)):
        (folder / "images" / f"{phantom.name}.png").write_bytes(png_bytes(phantom.frame))
        (folder / "masks" / f"{phantom.name}.png").write_bytes(png_bytes(phantom.mask * 255))
    return folder


def set_limits(bundle: Path, role: str, limits: dict[str, float]) -> None:
    edit_manifest(bundle, lambda raw: artefact(raw, role).update(limits=limits))


def test_figures_are_those_of_the_masks_and_truths(bundle_copy: Path, tmp_path: Path) -> None:
    set_limits(bundle_copy, FP16, LOOSE)
    files = find_frames([write_data_set(tmp_path / "data")])
    with Segmenter.open(bundle_copy, "onnxruntime") as segment:
        check = check_frames(segment, files)
        phantoms = phantom_frames(5, (SIDE, SIDE))
        masks = [segment(phantom.frame).mask for phantom in phantoms]
    figures = [dice(mask, phantom.mask) for mask, phantom in zip(masks, phantoms, strict=True)]
    assert (check.frames, check.against) == (5, "network.fp16.onnx behind the CPU preprocessing")
    assert check.truth_dice_all == pytest.approx(np.mean(figures))
    assert check.truth_dice_with_cells == pytest.approx((figures[0] + figures[2]) / 2)
    assert check.false_positive_frames == pytest.approx(np.mean([masks[n].any() for n in (1, 3, 4)]))
    assert check.agreement_worst_dice is not None
    assert check.agreement_mean_dice is not None
    assert LOOSE["worst_dice"] <= check.agreement_worst_dice <= check.agreement_mean_dice <= 1


def test_frames_without_masks_have_agreement_and_no_truth(bundle_copy: Path, tmp_path: Path) -> None:
    set_limits(bundle_copy, FP16, LOOSE)
    files = find_frames([write_data_set(tmp_path / "data", 2) / "images"])
    with Segmenter.open(bundle_copy, "onnxruntime") as segment:
        check = check_frames(segment, files)
    assert check.agreement_worst_dice is not None
    assert (check.truth_dice_all, check.truth_dice_with_cells, check.false_positive_frames) == (None, None, None)


def test_every_frame_is_reported_for_the_progress_bar(bundle_copy: Path, tmp_path: Path) -> None:
    set_limits(bundle_copy, FP16, LOOSE)
    ticks: list[None] = []
    with Segmenter.open(bundle_copy, "onnxruntime") as segment:
        check_frames(segment, find_frames([write_data_set(tmp_path / "data", 3)]), on_frame=lambda: ticks.append(None))
    assert len(ticks) == 3


def test_a_served_model_that_differs_from_the_float16_network_fails(bundle_copy: Path, tmp_path: Path) -> None:
    put_constant_model(bundle_copy, ["N", 1, SIDE, SIDE], 0.0)
    files = find_frames([write_data_set(tmp_path / "data", 1)])
    with Segmenter.open(bundle_copy, "onnxruntime") as segment, pytest.raises(ParityError) as failure:
        check_frames(segment, files)
    assert (
        "onnxruntime and network.fp16.onnx behind the CPU preprocessing disagree on these frames: worst Dice 0.0"
        in str(failure.value)
    )
    assert "do not use this bundle here: export it again with --frames of this kind" in str(failure.value)


def test_a_float16_network_that_gives_nan_is_no_agreement(bundle_copy: Path, tmp_path: Path) -> None:
    """On an empty frame a NaN mask would look empty too, and agree."""
    put_constant_model(bundle_copy, ["N", 1, SIDE, SIDE], 0.0)
    put_constant_model(bundle_copy, ["N", 1, SIDE, SIDE], np.nan, name=NETWORK_FP16)
    files = find_frames([write_data_set(tmp_path / "data", 2) / "images" / "phantom-0001.png"])
    with (
        Segmenter.open(bundle_copy, "onnxruntime") as segment,
        pytest.raises(BackendError, match=r"network.fp16.onnx behind .* must give .* nan"),
    ):
        check_frames(segment, files)


def test_a_frame_of_another_size_is_refused_by_name(bundle_copy: Path, tmp_path: Path) -> None:
    (tmp_path / "small.png").write_bytes(png_bytes(np.zeros((64, 64), np.uint8)))
    with (
        Segmenter.open(bundle_copy, "onnxruntime") as segment,
        pytest.raises(FrameError, match=r"small.png: a frame is \(H, W\) or \(H, W, 3\) of 128 x 128 px"),
    ):
        check_frames(segment, find_frames([tmp_path / "small.png"]))


def test_a_truth_of_another_size_is_refused(bundle_copy: Path, tmp_path: Path) -> None:
    data = write_data_set(tmp_path / "data", 1)
    (data / "masks" / "phantom-0000.png").write_bytes(png_bytes(np.zeros((64, 64), np.uint8)))
    with (
        Segmenter.open(bundle_copy, "onnxruntime") as segment,
        pytest.raises(FrameError, match=r"has the size \(64, 64\), expected"),
    ):
        check_frames(segment, find_frames([data]))


def on_a_gpu(bundle: Bundle, network: HostNetwork) -> Segmenter:
    """A Segmenter whose GPU is the tests' stand-in."""
    pipeline = GpuPipeline(bundle, lambda stream: network, all_passed)
    return Segmenter(bundle, Choice("tensorrt", BACKENDS["tensorrt"], "tensorrt: for this test", pipeline, FP16))


def test_a_gpu_backend_is_compared_with_the_portable_model_on_the_cpu(
    cupy_on_cpu: ModuleType, bundle_copy: Path, tmp_path: Path, float16: Float16Network
) -> None:
    set_limits(bundle_copy, FP16, LOOSE)
    files = find_frames([write_data_set(tmp_path / "data", 2)])
    with on_a_gpu(Bundle.open(bundle_copy), float16) as segment:
        check = check_frames(segment, files)
    assert check.against == "model.onnx in ONNX Runtime on the CPU"
    assert check.agreement_worst_dice is not None
    assert check.agreement_worst_dice > 0.9
    assert len(float16.runs) >= 2


def test_a_gpu_backend_that_differs_from_the_portable_model_fails(
    cupy_on_cpu: ModuleType, bundle: Bundle, tmp_path: Path, float16: Float16Network
) -> None:
    files = find_frames([write_data_set(tmp_path / "data", 1)])
    float16.spoil = lambda logits: logits.fill(-9)
    with (
        on_a_gpu(bundle, float16) as segment,
        pytest.raises(
            ParityError,
            match=r"in ONNX Runtime on the CPU disagree on these frames: worst Dice 0",
        ),
    ):
        check_frames(segment, files)


def test_a_change_against_the_truth_is_held_to_its_limit_where_there_are_frames_enough(
    cupy_on_cpu: ModuleType, bundle_copy: Path, tmp_path: Path, float16: Float16Network
) -> None:
    set_limits(bundle_copy, FP16, {"worst_dice": 0.0, "mean_dice": 0.0, "dice_change": 0.001})
    files = find_frames([write_data_set(tmp_path / "data", 18)])  # 8 with cells, the last one among them
    float16.spoil = lambda logits: logits.fill(-9)  # nothing is found any more
    with on_a_gpu(Bundle.open(bundle_copy), float16) as segment:
        too_few = check_frames(segment, files[:-1])
        with pytest.raises(ParityError) as failure:
            check_frames(segment, files)
    assert too_few.truth_dice_change_with_cells is not None
    assert too_few.truth_dice_change_with_cells < -0.1
    assert (
        "from model.onnx in ONNX Runtime on the CPU to tensorrt, Dice against the ground truth changes by -0."
        in str(failure.value)
    )
    assert "over 18 frames (all), limit 0.001; do not use this bundle here" in str(failure.value)


LIMITS = ParityLimits(worst_dice=0.9, mean_dice=0.99, dice_change=0.002)


@pytest.mark.parametrize("by_name_only", [False, True])
def test_frames_without_cells_dilute_neither_agreement_nor_change(by_name_only: bool) -> None:
    judge = _Judge(LIMITS, "one", "another", by_name_only)
    judge.agreement({"all": [0.995] * 8 + [1.0] * 12, "those with cells": [0.995] * 8})
    with pytest.raises(ParityError, match=r"mean 0\.980000 of 8 \(those with cells, limit 0\.99\)"):
        judge.agreement({"all": [0.98] * 8 + [1.0] * 12, "those with cells": [0.98] * 8})
    judge.change({"all": [-0.002] * 8 + [0.0] * 12, "those with cells": [-0.002] * 8})
    with pytest.raises(ParityError, match=r"by -0\.003000 over 8 frames \(those with cells\), limit 0\.002") as failure:
        judge.change({"all": [-0.003] * 8 + [0.0] * 12, "those with cells": [-0.003] * 8})
    assert ("take float32, or export again with --calibrate" in str(failure.value)) is by_name_only


def test_figures_that_are_no_numbers_do_not_pass() -> None:
    judge = _Judge(LIMITS, "one", "another", by_name_only=False)
    with pytest.raises(ParityError):
        judge.agreement({"all": [float("nan")]})
    with pytest.raises(ParityError):
        judge.change({"all": [float("nan")]})


def test_openvino_is_compared_with_another_engine_and_another_preprocessing(demo_bundle: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("OpenVINO is not installed")
    files = find_frames([write_data_set(tmp_path / "data", 2)])
    with Segmenter.open(demo_bundle, "openvino") as segment:
        check = check_frames(segment, files)
    assert check.against == "model.onnx in ONNX Runtime on the CPU"
    assert check.agreement_worst_dice is not None
    assert check.agreement_worst_dice >= segment.manifest.limits_of("portable").worst_dice
