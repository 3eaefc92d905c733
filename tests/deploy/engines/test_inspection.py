"""Convolutions as an engine's own inspector tells them, in the words of TensorRT 10 and of 11."""

from __future__ import annotations

import json
from typing import Any

import pytest

from breastseg_deploy.engines.inspection import checked_convolutions, convolutions
from breastseg_deploy.errors import BackendError

TEN_HALF = {"Name": "x", "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}
TEN_FLOAT = {"Name": "x", "Format/Datatype": "Row major linear FP32"}
ELEVEN_HALF = {"Name": "x", "Format": "kHWC8", "DataType": "Half"}
ELEVEN_FLOAT = {"Name": "x", "Format": "kLINEAR", "DataType": "Float"}
DYNAMIC = {"Name": "x", "Format/Datatype": "N/A due to dynamic shapes"}
XMMA = "sm80_xmma_fprop_implicit_gemm_{}_nhwckrsc_nhwc_tilesize128x64x32_stage3_warpsize2x2x1_g1_tensor16x8x16"
HALF_SUMS, FLOAT_SUMS = XMMA.format("f16f16_f16f16_f16"), XMMA.format("f16f16_f16f32_f32")


def layer(tensor: dict[str, Any], kind: str = "CaskConvolution", **more: Any) -> dict[str, Any]:
    return {"Name": "a", "LayerType": kind, "Inputs": [tensor], "Outputs": [tensor], **more}


def weighing(kind: str, **more: Any) -> dict[str, Any]:
    return layer(DYNAMIC, Weights={"Type": kind, "Count": 9408}, **more)


def told(*layers: Any) -> str:
    return json.dumps({"Layers": layers, "Bindings": ["tensor", "logits"]})


@pytest.mark.parametrize(("half", "single"), [(TEN_HALF, TEN_FLOAT), (ELEVEN_HALF, ELEVEN_FLOAT)])
def test_convolutions_are_counted_by_type(half: dict[str, Any], single: dict[str, Any]) -> None:
    layers = (layer(half), layer(half), layer(single), layer(single, "Reformat"), "a name alone")
    assert convolutions(told(*layers)).types == {"HALF": 2, "FLOAT": 1}


def test_the_weights_tell_the_type_where_the_batch_is_open() -> None:
    assert convolutions(told(weighing("Half"), weighing("Float"))).types == {"HALF": 1, "FLOAT": 1}


@pytest.mark.parametrize(
    ("tactic", "kind"),
    [
        (HALF_SUMS, "HALF"),
        (FLOAT_SUMS, "HALF"),
        ("trt_turing_h1688cudnn_256x64_ldg8_relu_exp_small_nhwc_tn_v1", "HALF"),
        (XMMA.format("f32f32_f32f32_f32"), "FLOAT"),
        (XMMA.format("tf32f32_tf32f32_f32"), "FLOAT"),
        ("ampere_scudnn_128x64_relu_medium_nn_v1", "FLOAT"),
        (XMMA.format("bf16bf16_bf16f32_f32"), "UNKNOWN"),
        ("0x4fd3c46622e98342", "UNKNOWN"),
    ],
)
def test_the_tactics_name_tells_the_type_where_nothing_else_does(tactic: str, kind: str) -> None:
    assert convolutions(told(layer(DYNAMIC, TacticName=tactic))).types == {kind: 1}


def test_the_tactics_name_tells_what_products_are_added_up_in() -> None:
    names = [
        HALF_SUMS,
        HALF_SUMS,
        FLOAT_SUMS,
        "trt_ampere_h16816cudnn_128x64_ldg8",
        "turing_fp16_s1688cudnn_fp16_v1",
        "?",
    ]
    found = convolutions(told(*(weighing("Half", TacticName=name) for name in names)))
    assert found.accumulators == {"HALF": 3, "FLOAT": 2, "UNKNOWN": 1}
    assert found.tactics[HALF_SUMS] == 2
    assert str(found) == "6 HALF; of the HALF ones, sums in 2 FLOAT, 3 HALF, 1 UNKNOWN"


def test_an_engine_with_its_islands_alone_in_float_is_taken() -> None:
    checked_convolutions(told(layer(TEN_HALF), layer(TEN_FLOAT)), {"CONVOLUTION": {"HALF": 1, "FLOAT": 1}})


def test_an_engine_that_was_silently_built_in_float32_is_refused() -> None:
    with pytest.raises(BackendError, match="with 2 convolutions in float32, its network has 1; the engine was dropped"):
        checked_convolutions(told(layer(TEN_FLOAT), layer(TEN_FLOAT)), {"CONVOLUTION": {"HALF": 1, "FLOAT": 1}})


def test_an_engine_for_open_batches_that_was_silently_built_in_float32_is_refused() -> None:
    information = told(*(weighing("Float", TacticName=XMMA.format("f32f32_f32f32_f32")) for _ in range(357)))
    with pytest.raises(BackendError, match="with 357 convolutions in float32, its network has 3"):
        checked_convolutions(information, {"CONVOLUTION": {"HALF": 357, "FLOAT": 3}})


@pytest.mark.parametrize("layers", [(), ("a name alone",), (layer(DYNAMIC),)])
def test_an_engine_whose_convolutions_nothing_is_told_of_is_refused(layers: tuple[Any, ...]) -> None:
    with pytest.raises(BackendError, match=r"tells the type of none of the engine's convolutions .*; the engine was"):
        checked_convolutions(told(*layers), {"CONVOLUTION": {"HALF": 1}})
