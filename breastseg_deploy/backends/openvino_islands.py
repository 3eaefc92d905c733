"""Float32 islands in an OpenVINO network: nodes that keep float32 where the rest computes in bfloat16.

OpenVINO knows an attribute for that, which its transformations set for their own needs and Python cannot. The text of a
model can: so the network is written out and read again with the attribute at its nodes. Whether it was followed is read
from the network as it was compiled.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

import numpy as np

from breastseg_deploy.errors import BackendError, BundleError

_ATTRIBUTE = {"name": "DisablePrecisionConversion", "version": "0", "value": "dynamic:f16,bf16"}
"""ov::DisablePrecisionConversion of OpenVINO 2026; the CPU plugin asks for float16 whatever the precision is."""
_WITHOUT_BIAS = "/WithoutBiases"


def onnx_name(operation: str) -> str:
    """The ONNX node that an operation came from; OpenVINO adds a suffix where it splits off the bias."""
    return operation.removesuffix(_WITHOUT_BIAS)


def with_islands(ov: Any, core: Any, network: Any, islands: Collection[str]) -> Any:
    """The network with the attribute at each island.

    Args:
        ov: OpenVINO.
        core: its core.
        network: as it was read from ONNX.
        islands: names of ONNX nodes.

    Raises:
        BundleError: one of them is none of the network's.
    """
    with TemporaryDirectory() as scratch:
        text, weights = Path(scratch, "network.xml"), Path(scratch, "network.bin")
        ov.serialize(network, text, weights)
        root = ElementTree.fromstring(text.read_bytes())
        content = np.fromfile(weights, np.uint8)
    layers = [layer for layer in root.iter("layer") if layer.get("type") != "Const"]
    unknown = sorted(set(islands) - {onnx_name(layer.get("name", "")) for layer in layers})
    if unknown:
        raise BundleError(
            f"the manifest names the float32 island {unknown[0]!r}, and model.onnx has no such node; export it again"
        )
    for layer in layers:
        if onnx_name(layer.get("name", "")) in islands:
            facts = layer.find("rt_info")
            if facts is None:  # it must stand before the ports
                facts = ElementTree.Element("rt_info")
                layer.insert(0 if layer.find("data") is None else 1, facts)
            ElementTree.SubElement(facts, "attribute", _ATTRIBUTE)
    return core.read_model(ElementTree.tostring(root), ov.Tensor(content))


def check_bfloat16(compiled: Any, islands: Collection[str]) -> str:
    """Hold the network as it was compiled to its islands.

    Returns:
        How many of its convolutions compute in bfloat16, in words.

    Raises:
        BackendError: a convolution of an island does not compute in float32, or none at all in bfloat16.
    """
    precisions = convolution_precisions(compiled)
    rounded = [name for name, precision in precisions.items() if name in islands and precision != "f32"]
    if rounded:
        raise BackendError(
            f"OpenVINO computes {len(rounded)} convolutions in {precisions[rounded[0]]} that must stay in float32, the "
            f"first is {rounded[0]}; use openvino, or the version of OpenVINO of constraints.txt"
        )
    reduced = sum(precision == "bf16" for precision in precisions.values())
    if not reduced:
        raise BackendError("OpenVINO computes no convolution in bfloat16 here; use openvino")
    return f"{reduced} of {len(precisions)} convolutions in bfloat16"


def convolution_precisions(compiled: Any) -> dict[str, str]:
    """What each convolution computes in ("f32", "bf16", "i8", "u8"), by the name of its ONNX node."""
    found = {}
    for operation in compiled.get_runtime_model().get_ordered_ops():
        facts = operation.get_rt_info()
        if facts["layerType"].astype(str) == "Convolution":
            name, *_ = facts["originalLayersNames"].astype(str).split(",")  # then what was fused into it
            found[onnx_name(name)] = facts["runtimePrecision"].astype(str)
    return found
