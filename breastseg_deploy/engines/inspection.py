"""The convolutions inside a finished engine, as its own inspector tells them: their types, and what they add up in."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from breastseg_deploy.engines import log
from breastseg_deploy.engines.api import TensorRT
from breastseg_deploy.engines.network import TypeHistogram
from breastseg_deploy.errors import BackendError

HALF, FLOAT, UNKNOWN = "HALF", "FLOAT", "UNKNOWN"

_TENSOR_FIELDS = ("Format/Datatype", "Datatype", "DataType", "Format")
"""TensorRT 10 tells a tensor's type within its format, 11 apart from it; both write "N/A due to dynamic shapes"."""
_TYPE_WORDS = ((HALF, re.compile("fp16|half", re.I)), (FLOAT, re.compile("fp32|float", re.I)))
_TACTIC_WORDS = (
    (FLOAT, re.compile(r"tf32|f32f32_|scudnn|sgemm")),
    (HALF, re.compile(r"fp16|(?<![a-z])f16f16_|(?<![a-z0-9])h(?:884|1688|16816)")),
)
_ACCUMULATOR_WORDS = (
    # inputs, then result and accumulator, then the rest: f16f16_f16f32_f32; or one letter before the matrix shape.
    (HALF, re.compile(r"(?<![a-z])f16f16_[a-z]+\d+f16_|(?<![a-z0-9])h(?:884|1688|16816)")),
    (FLOAT, re.compile(r"(?<![a-z])f16f16_[a-z]+\d+f32_|(?<![a-z0-9])s(?:884|1688|16816)")),
)


@dataclass(frozen=True)
class Convolutions:
    """What the inspector tells of an engine's convolutions.

    Attributes:
        types: number by type: HALF, FLOAT, UNKNOWN.
        accumulators: number of the HALF ones by the type that their products are added up in, as far as the tactic's
            name tells it: HALF, FLOAT, UNKNOWN. TensorRT is free to choose HALF, which keeps 11 bits of a sum.
        tactics: number by tactic's name, for the log.
    """

    types: Mapping[str, int]
    accumulators: Mapping[str, int]
    tactics: Mapping[str, int]

    def __str__(self) -> str:
        return f"{_words(self.types)}; of the HALF ones, sums in {_words(self.accumulators)}"


@log.heard()
def inspect_engine(trt: TensorRT, plan: bytes, network: TypeHistogram) -> Convolutions:
    """The convolutions of an engine, which computes no more of them in float32 than its network does.

    Args:
        trt: the flavour that built it.
        plan: the engine.
        network: the types of the network's layers.

    Raises:
        BackendError: the engine cannot be loaded here, where it was built; it computes more convolutions in float32
            than its network; or the inspector tells the type of none.
    """
    engine = trt.Runtime(log.logger(trt)).deserialize_cuda_engine(plan)
    if engine is None:
        raise BackendError(f"TensorRT cannot load the engine that it has just built: {log.first_error()}; build again")
    information = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return checked_convolutions(information, network)


def checked_convolutions(information: str, network: TypeHistogram) -> Convolutions:
    """The convolutions that an engine's inspector writes as JSON, held to those of the network.

    Raises:
        BackendError: see `inspect_engine`.
    """
    found = convolutions(information)
    allowed = network.get("CONVOLUTION", {}).get(FLOAT, 0)
    if found.types.get(FLOAT, 0) > allowed:
        raise BackendError(
            f"TensorRT built an engine with {found.types[FLOAT]} convolutions in float32, its network has {allowed}; "
            "the engine was dropped: try another TensorRT version"
        )
    if not found.types.get(HALF) and not found.types.get(FLOAT):
        raise BackendError(
            f"TensorRT tells the type of none of the engine's convolutions ({_words(found.types) or 'it names none'}), "
            "so nothing proves that it computes in float16; the engine was dropped: try another TensorRT version"
        )
    return found


def convolutions(information: str) -> Convolutions:
    """What an engine's inspector writes as JSON of its convolutions; layers that it only names are not counted."""
    types: Counter[str] = Counter()
    accumulators: Counter[str] = Counter()
    tactics: Counter[str] = Counter()
    for layer in json.loads(information).get("Layers", ()):
        if not isinstance(layer, dict) or "conv" not in str(layer.get("LayerType", "")).lower():
            continue
        tactic = str(layer.get("TacticName", ""))
        kind = _type_of(layer, tactic)
        types[kind] += 1
        tactics[tactic or "no name"] += 1
        if kind == HALF:
            accumulators[_first(_ACCUMULATOR_WORDS, tactic)] += 1
    return Convolutions(types, accumulators, tactics)


def _type_of(layer: dict[str, Any], tactic: str) -> str:
    """By its weights, which have a type whatever the shapes; else by its input; else by its tactic's name."""
    weights = layer.get("Weights")
    inputs = layer.get("Inputs") or [{}]
    told = [
        _first(_TYPE_WORDS, str(weights.get("Type", "")) if isinstance(weights, dict) else ""),
        _first(_TYPE_WORDS, " ".join(str(inputs[0].get(field, "")) for field in _TENSOR_FIELDS)),
        _first(_TACTIC_WORDS, tactic),
    ]
    return next((kind for kind in told if kind != UNKNOWN), UNKNOWN)


def _first(words: tuple[tuple[str, re.Pattern[str]], ...], text: str) -> str:
    return next((kind for kind, pattern in words if pattern.search(text)), UNKNOWN)


def _words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {kind}" for kind, number in sorted(counts.items()))
