"""Types as an engine's own inspector tells them, in the words of TensorRT 10 and of 11."""

from __future__ import annotations

import json
from typing import Any

import pytest

from breastseg_deploy.engines.inspection import check_convolutions, convolution_types
from breastseg_deploy.errors import BackendError

TEN_HALF = {"Name": "x", "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}
TEN_FLOAT = {"Name": "x", "Format/Datatype": "Row major linear FP32"}
ELEVEN_HALF = {"Name": "x", "Format": "kHWC8", "DataType": "Half"}
ELEVEN_FLOAT = {"Name": "x", "Format": "kLINEAR", "DataType": "Float"}


def layer(tensor: dict[str, Any], kind: str = "CaskConvolution") -> dict[str, Any]:
    return {"Name": "a", "LayerType": kind, "Inputs": [tensor], "Outputs": [tensor]}


def told(*layers: Any) -> str:
    return json.dumps({"Layers": layers, "Bindings": ["tensor", "logits"]})


@pytest.mark.parametrize(("half", "single"), [(TEN_HALF, TEN_FLOAT), (ELEVEN_HALF, ELEVEN_FLOAT)])
def test_convolutions_are_counted_by_type(half: dict[str, Any], single: dict[str, Any]) -> None:
    found = convolution_types(told(layer(half), layer(half), layer(single), layer(single, "Reformat"), "a name alone"))
    assert found == {"HALF": 2, "FLOAT": 1}


def test_a_type_of_neither_kind_is_no_float() -> None:
    assert convolution_types(told(layer({"Name": "x", "Format/Datatype": "N/A due to dynamic shapes"}))) == {"OTHER": 1}


def test_an_engine_with_its_islands_alone_in_float_is_taken() -> None:
    check_convolutions(told(layer(TEN_HALF), layer(TEN_FLOAT)), {"CONVOLUTION": {"HALF": 1, "FLOAT": 1}})


def test_an_engine_that_was_silently_built_in_float32_is_refused() -> None:
    with pytest.raises(BackendError, match="with 2 convolutions in float32, its network has 1; the engine was dropped"):
        check_convolutions(told(layer(TEN_FLOAT), layer(TEN_FLOAT)), {"CONVOLUTION": {"HALF": 1, "FLOAT": 1}})
