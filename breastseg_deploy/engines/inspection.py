"""The types inside a finished engine, as its own inspector tells them."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from breastseg_deploy.engines import log
from breastseg_deploy.engines.api import TensorRT
from breastseg_deploy.engines.network import TypeHistogram
from breastseg_deploy.errors import BackendError

_TYPE_FIELDS = ("Format/Datatype", "Datatype", "DataType", "Format")
"""TensorRT 10 tells a tensor's type within its format, 11 apart from it."""
_HALF_WORDS, _FLOAT_WORDS = ("fp16", "half"), ("fp32", "float")


def check_engine(trt: TensorRT, plan: bytes, network: TypeHistogram) -> None:
    """Refuse an engine that computes more convolutions in float32 than its network does.

    Args:
        trt: the flavour that built it.
        plan: the engine.
        network: the types of the network's layers.

    Raises:
        BackendError: the engine cannot be loaded here, where it was built, or computes convolutions in float32.
    """
    log.forget_errors()
    engine = trt.Runtime(log.logger(trt)).deserialize_cuda_engine(plan)
    if engine is None:
        raise BackendError(f"TensorRT cannot load the engine that it has just built: {log.first_error()}; build again")
    information = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    check_convolutions(information, network)


def check_convolutions(information: str, network: TypeHistogram) -> None:
    """Refuse what `check_engine` refuses, by what the engine's inspector writes as JSON.

    Raises:
        BackendError: more convolutions in float32 than the network has.
    """
    found = convolution_types(information)
    allowed = network.get("CONVOLUTION", {}).get("FLOAT", 0)
    if found["FLOAT"] > allowed:
        raise BackendError(
            f"TensorRT built an engine with {found['FLOAT']} convolutions in float32, its network has {allowed}; "
            "the engine was dropped: try another TensorRT version"
        )


def convolution_types(information: str) -> Counter[str]:
    """Number of convolutions of an engine by the type of their first input: HALF, FLOAT or OTHER.

    Args:
        information: what the engine inspector writes as JSON. Layers that it tells nothing of are not counted.
    """
    types: Counter[str] = Counter()
    for layer in json.loads(information).get("Layers", ()):
        if isinstance(layer, dict) and "conv" in str(layer.get("LayerType", "")).lower() and layer.get("Inputs"):
            types[_type_of(layer["Inputs"][0])] += 1
    return types


def _type_of(tensor: dict[str, Any]) -> str:
    told = " ".join(str(tensor.get(field, "")) for field in _TYPE_FIELDS).lower()
    if any(word in told for word in _HALF_WORDS):
        return "HALF"
    return "FLOAT" if any(word in told for word in _FLOAT_WORDS) else "OTHER"
