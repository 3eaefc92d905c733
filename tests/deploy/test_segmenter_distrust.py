"""Models and goldens that cannot be trusted: the Segmenter finds out, and returns no mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from segmented import FRAME, SIDE
from surgery import alter_golden, edit_manifest, put_constant_model, put_sealed

from breastseg_deploy import BackendError, BundleError, ParityError, Segmenter
from breastseg_deploy.bundle import MODEL, PORTABLE, Bundle


def test_self_test_passes_on_every_golden(segment: Segmenter) -> None:
    results = segment.self_test()
    assert [result.name for result in results] == list(segment.manifest.goldens)
    assert all(result.dice >= 0.9999 and result.largest_probability_error < 1e-3 for result in results)


def test_self_test_fails_where_the_reference_says_otherwise(bundle_copy: Path) -> None:
    bundle = Bundle.open(bundle_copy)
    opposite = np.asarray(1 - bundle.goldens()[0].probability, np.float32)
    name = alter_golden(
        bundle_copy, probability=opposite, mask=(opposite >= bundle.manifest.threshold).astype(np.uint8)
    )
    with Segmenter.open(bundle_copy, "onnxruntime") as segment, pytest.raises(ParityError) as failure:
        segment.self_test()
    assert f"golden {name} has Dice 0." in str(failure.value)
    limit = bundle.manifest.limits_of(PORTABLE).worst_dice
    assert f"the limit is {limit}; do not use its portable artefact on this machine" in str(failure.value)


def test_self_test_fails_where_the_golden_frame_was_exchanged(bundle_copy: Path) -> None:
    alter_golden(bundle_copy, frame=np.zeros((SIDE, SIDE, 3), np.uint8))
    with Segmenter.open(bundle_copy, "onnxruntime") as segment, pytest.raises(ParityError, match="has Dice"):
        segment.self_test()


def test_self_test_fails_where_the_model_was_exchanged(bundle_copy: Path) -> None:
    put_constant_model(bundle_copy, ["N", 1, SIDE, SIDE], 0.0)
    with (
        Segmenter.open(bundle_copy, "onnxruntime") as segment,
        pytest.raises(ParityError, match=r"has Dice 0.000000"),
    ):
        segment.self_test()


def test_self_test_without_a_limit_is_refused(bundle_copy: Path) -> None:
    edit_manifest(bundle_copy, lambda raw: raw["artefacts"][0].update(limits=None))
    with (
        Segmenter.open(bundle_copy, "onnxruntime") as segment,
        pytest.raises(BundleError, match="holds no parity of the artefact 'portable'"),
    ):
        segment.self_test()


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.5, 1.5])
def test_answers_that_are_no_probabilities_are_refused(bundle_copy: Path, value: float) -> None:
    put_constant_model(bundle_copy, ["N", 1, SIDE, SIDE], value)
    with Segmenter.open(bundle_copy, "onnxruntime") as segment, pytest.raises(BackendError) as failure:
        segment(FRAME)
    assert f"must give float32 (1, 128, 128) in [0, 1], got values from {value}" in str(failure.value)
    assert "no mask is returned: run `breastseg verify`" in str(failure.value)


def test_one_nan_among_good_values_is_refused(bundle_copy: Path) -> None:
    values = np.full((1, 1, SIDE, SIDE), 0.5, np.float32)
    values[0, 0, 17, 93] = np.nan
    put_constant_model(bundle_copy, ["N", 1, SIDE, SIDE], values)
    with (
        Segmenter.open(bundle_copy, "onnxruntime") as segment,
        pytest.raises(BackendError, match="no mask is returned"),
    ):
        segment(FRAME)


@pytest.mark.parametrize(
    "shape", [["N", 2, SIDE, SIDE], ["N", 1, SIDE, SIDE // 2], ["N", SIDE, SIDE], [3, 1, SIDE, SIDE], ["N"]], ids=str
)
def test_answers_of_another_shape_are_refused(bundle_copy: Path, shape: list[Any]) -> None:
    put_constant_model(bundle_copy, shape, 0.5)
    with Segmenter.open(bundle_copy, "onnxruntime") as segment, pytest.raises(BackendError) as failure:
        segment(FRAME)
    assert "must answer with (N, 1, H, W) = (1, 1, 128, 128), got (" in str(failure.value)


@pytest.mark.parametrize("element", [TensorProto.DOUBLE, TensorProto.FLOAT16])
def test_answers_of_another_dtype_are_refused(bundle_copy: Path, element: int) -> None:
    put_constant_model(bundle_copy, ["N", 1, SIDE, SIDE], 0.5, element)
    with (
        Segmenter.open(bundle_copy, "onnxruntime") as segment,
        pytest.raises(BackendError, match=r"must give float32 .* got float(64|16)"),
    ):
        segment(FRAME)


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x09\x12"], ids=["empty", "text", "cut"])
def test_model_that_cannot_be_loaded_is_refused_in_one_line(bundle_copy: Path, content: bytes) -> None:
    put_sealed(bundle_copy, MODEL, content)
    with pytest.raises(
        BackendError, match=r"cannot load .*model.onnx: .*; use the version named under built_with"
    ) as failure:
        Segmenter.open(bundle_copy, "onnxruntime")
    assert "\n" not in str(failure.value)


def test_damaged_model_is_tried_no_second_time(bundle_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """ONNX Runtime's own fallback says on stdout that it retries on the CPU, which had just refused."""
    put_constant_model(bundle_copy, ["N", 1, SIDE, SIDE], 0.5)
    put_sealed(bundle_copy, MODEL, (bundle_copy / MODEL).read_bytes().replace(b"Expand", b"\xd7xpand"))
    with pytest.raises(BackendError, match=r"cannot load .*model.onnx: "):
        Segmenter.open(bundle_copy, "onnxruntime")
    assert capsys.readouterr().out == ""
