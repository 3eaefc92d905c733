"""The runtime as scanner software meets it: answers and refusals."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from segmented import COLOUR, FRAME, SIDE
from surgery import edit_manifest, put_constant_model

from breastseg_deploy import ArgumentError, FrameError, Segmenter
from breastseg_deploy.backends.registry import BACKENDS
from breastseg_deploy.bundle import MODEL, PORTABLE, Bundle
from breastseg_deploy.manifest import Manifest
from breastseg_deploy.phantom import phantom_frame


@pytest.mark.parametrize("frame", [FRAME, COLOUR], ids=["grey", "colour"])
def test_one_frame_gives_one_mask_of_0_and_1(segment: Segmenter, frame: NDArray[np.uint8]) -> None:
    answer = segment(frame)
    assert answer.mask.shape == answer.probability.shape == (SIDE, SIDE)
    assert answer.mask.dtype == np.uint8
    assert answer.probability.dtype == np.float32
    assert set(np.unique(answer.mask)) <= {0, 1}
    assert 0 <= answer.probability.min() <= answer.probability.max() <= 1


def test_mask_is_the_probability_at_the_threshold(segment: Segmenter) -> None:
    answer = segment(FRAME)
    np.testing.assert_array_equal(answer.mask, answer.probability >= segment.manifest.threshold)


def test_a_probability_equal_to_the_threshold_is_a_cell(bundle_copy: Path) -> None:
    edit_manifest(bundle_copy, lambda raw: raw.update(threshold=0.25))
    put_constant_model(bundle_copy, ["N", 1, SIDE, SIDE], 0.25)
    with Segmenter.open(bundle_copy, "onnxruntime") as segment:
        assert segment(FRAME).mask.all()


def test_grey_frame_is_the_same_as_its_three_equal_channels(segment: Segmenter) -> None:
    np.testing.assert_array_equal(segment(FRAME).probability, segment(np.dstack([FRAME] * 3)).probability)


def test_colour_order_matters(segment: Segmenter) -> None:
    assert not np.array_equal(segment(COLOUR).probability, segment(COLOUR[:, :, ::-1]).probability)


@pytest.mark.parametrize("colour", [False, True])
def test_batch_gives_what_its_frames_give_one_by_one(segment: Segmenter, colour: bool) -> None:
    frames = np.stack([phantom_frame(n, (SIDE, SIDE)).frame for n in range(3)])
    if colour:
        frames = np.stack([frames, frames // 2, frames // 3], axis=-1)
    for results in (segment.batch(frames), segment.batch(list(frames))):
        assert [result.mask.shape for result in results] == [(SIDE, SIDE)] * 3
        for frame, result in zip(frames, results, strict=True):
            np.testing.assert_allclose(segment(frame).probability, result.probability, rtol=0, atol=1e-4)


def test_a_batch_of_one_is_a_list_of_one(segment: Segmenter) -> None:
    (result,) = segment.batch(FRAME[np.newaxis])
    np.testing.assert_array_equal(result.mask, segment(FRAME).mask)


def test_a_frame_with_its_channels_first_is_refused_and_not_taken_for_three(segment: Segmenter) -> None:
    with pytest.raises(
        FrameError, match=r"got \(3, 128, 128\); move the channels last, or pass several frames to `bat"
    ):
        segment(np.moveaxis(COLOUR, 2, 0))


def test_a_batch_is_refused_where_one_frame_is_asked_for_and_the_other_way_round(segment: Segmenter) -> None:
    with pytest.raises(FrameError, match=r"got \(2, 128, 128\); pass several frames to `batch`"):
        segment(np.stack([FRAME, FRAME]))
    with pytest.raises(FrameError, match=r"the first axis of a batch is N"):
        segment.batch(FRAME)


def test_a_probability_that_nobody_asked_for_is_none_and_the_mask_is_the_same(segment: Segmenter) -> None:
    result = segment(FRAME, probability=False)
    assert result.probability is None
    np.testing.assert_array_equal(result.mask, segment(FRAME).mask)


@pytest.mark.parametrize("depth", [10, 12, 16])
def test_16_bit_frame_is_the_same_as_its_8_bit_values(segment: Segmenter, depth: int) -> None:
    deep = np.rint(FRAME / 255 * (2**depth - 1)).astype(np.uint16)
    np.testing.assert_array_equal(segment(deep, bit_depth=depth).probability, segment(FRAME).probability)


def test_float_frame_is_the_same_as_its_8_bit_values(segment: Segmenter) -> None:
    light = (FRAME / 255).astype(np.float32)
    np.testing.assert_array_equal(segment(light, full_scale=1.0).probability, segment(FRAME).probability)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (np.zeros((SIDE, SIDE + 1), np.uint8), "never resized"),
        (np.zeros((SIDE, SIDE, 4), np.uint8), "without alpha"),
        (np.zeros((SIDE, SIDE), np.uint16), "need the scanner's bit_depth"),
        (np.zeros((SIDE, SIDE), np.float32), "need full_scale"),
        (np.zeros((SIDE, SIDE), np.int32), "got int32"),
        (np.zeros((0, SIDE), np.uint8), "no frame in it"),
        ([[0]], "plain NumPy arrays"),
    ],
)
def test_frames_that_break_the_contract_are_refused(segment: Segmenter, frame: Any, words: str) -> None:
    with pytest.raises(FrameError, match=words):
        segment(frame)


def test_timings_cover_the_call_stage_by_stage(segment: Segmenter) -> None:
    shares = []
    for _ in range(5):  # another process may take the core between two stages once, hardly five times
        timings = dict(segment(FRAME).timings)
        total = timings.pop("total")
        assert list(timings) == ["contract", "network", "check"]
        assert all(seconds >= 0 for seconds in timings.values())
        shares.append(sum(timings.values()) / total)
    assert 0.95 < max(shares) <= 1


def test_backend_and_its_reason_are_told_and_logged(demo_bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "breastseg_deploy"), Segmenter.open(demo_bundle, "onnxruntime") as segment:
        assert segment.backend == segment(FRAME).backend == "onnxruntime"
        assert segment.backend_reason == "onnxruntime: asked for by name"
        assert (segment.artefact, segment.manifest.limits_of(segment.artefact).worst_dice) == (PORTABLE, 0.9999)
        assert f"{demo_bundle}: backend onnxruntime: asked for by name" in caplog.text


def test_backend_of_its_own_choice_is_one_that_exists_and_serves(demo_bundle: Path) -> None:
    with Segmenter.open(demo_bundle) as segment:
        assert segment.backend in BACKENDS
        assert segment.backend_reason.startswith(f"{segment.backend}: ")
        assert segment(FRAME).mask.shape == (SIDE, SIDE)


def test_answers_are_the_callers_own(segment: Segmenter) -> None:
    first = segment(FRAME)
    kept = first.probability.copy()
    segment(255 - FRAME)
    np.testing.assert_array_equal(first.probability, kept)


def test_frame_is_left_alone(segment: Segmenter) -> None:
    frame = COLOUR.copy()
    segment(frame)
    np.testing.assert_array_equal(frame, COLOUR)


def test_segmenter_stays_usable_after_a_refused_frame(segment: Segmenter) -> None:
    before = segment(FRAME).probability
    with pytest.raises(FrameError):
        segment(FRAME[:64])
    np.testing.assert_array_equal(segment(FRAME).probability, before)


def test_bundle_may_vanish_once_it_is_open(bundle_copy: Path) -> None:
    with Segmenter.open(bundle_copy, "onnxruntime") as segment:
        (bundle_copy / MODEL).unlink()
        assert segment(FRAME).mask.shape == (SIDE, SIDE)


def test_manifest_is_at_hand(segment: Segmenter, demo_manifest: Manifest) -> None:
    assert segment.manifest == demo_manifest
    assert segment.manifest.frame.size_px == (SIDE, SIDE)


def test_runtime_never_imports_torch(demo_bundle: Path) -> None:
    code = (
        "import sys, numpy as np; from breastseg_deploy import Segmenter\n"
        f"with Segmenter.open({str(demo_bundle)!r}, 'onnxruntime') as segment:\n"
        f"    segment(np.zeros(({SIDE}, {SIDE}), np.uint8)); segment.self_test()\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & "
        "{'torch', 'torchvision', 'timm', 'onnx', 'breastseg_train', 'breastseg_export', 'cv2', 'onnxruntime'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "['onnxruntime']", done.stderr


def test_importing_the_package_loads_no_library() -> None:
    code = (
        "import sys, breastseg_deploy; print({'numpy', 'pydantic', 'onnxruntime', 'cv2', 'torch'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_bundle_that_is_open_serves_without_being_checked_again(demo_bundle: Path) -> None:
    opened = Bundle.open(demo_bundle)

    with Segmenter.open(opened, "onnxruntime") as segment:
        assert segment.bundle is opened
    with pytest.raises(ArgumentError, match="was checked with its key by"):
        Segmenter.open(opened, "onnxruntime", require_signature=True)
