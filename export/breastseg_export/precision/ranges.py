"""How far the values of a network reach on real frames, and which nodes float16 cannot hold for that."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from breastseg_deploy.bundle import TENSOR
from breastseg_deploy.errors import ParityError
from breastseg_export.graph import LOGITS
from breastseg_export.precision.half import FLOAT, value_types
from breastseg_export.precision.layers import described_values, groups, layer_of, part, plane_size
from breastseg_export.runners import session

FLOAT16_MAX = 65504.0
MARGIN = 8.0
"""Share of float16's range that a value may fill, as a divisor: frames that nobody measured and the partial sums of a
convolution may reach further than what was seen (docs/LOG.md)."""
SAFE_MAGNITUDE = FLOAT16_MAX / MARGIN
COUNTABLE = 2048
"""float16 counts to 2048: from there on, one more equal addend is rounded away. A pool over more values needs a float32
sum even where that sum stays in range."""

POOLS = ("ReduceMean", "GlobalAveragePool")
"""They sum a whole plane, in a precision that is the engine's business: a GPU that sums in float16 overflows in the
squeeze-and-excitation blocks of EfficientNet (google-ai-edge/LiteRT issue 9249)."""

LOCAL_POOL = "AveragePool"
"""It sums a window, likewise; held to what the largest value would add up to there."""

_NEVER_LARGER = ("Relu", "Sigmoid", "Concat", "Resize", "MaxPool", LOCAL_POOL, *POOLS)
"""What they give lies within the range of what they read (or of 0 to 1), so nobody needs to look."""


@dataclass
class Ranges:
    """What was reached so far, over all frames.

    Attributes:
        largest: the largest magnitude of each value that was looked at, by its name.
        plane_sums: the largest sum of the magnitudes in one plane that a pool reads, by the pool's name.
    """

    largest: dict[str, float] = field(default_factory=dict)
    plane_sums: dict[str, float] = field(default_factory=dict)


class Watch:
    """A network in ONNX Runtime, float32, that keeps account of its ranges.

    Args:
        network: float32, as `graph.export_network` makes it.
    """

    def __init__(self, network: ModelProto) -> None:
        self._network = network
        described = described_values(network)
        # Group by group: the values of a whole B7, kept until somebody looks at them, would take 11 GB.
        self._parts = [_WatchedPart(part(network, group.nodes, described)) for group in groups(network)]
        self.ranges = Ranges()

    def logits(self, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        """(1, 4, H, W) to logits (H, W).

        Raises:
            ParityError: a layer left the range of float32.
        """
        values: dict[str, NDArray[np.float32]] = {TENSOR: tensor}
        for piece in self._parts:
            for name, figure in piece.run(values, self.ranges).items():
                if not math.isfinite(figure):
                    raise ParityError(
                        f"the layer {self._layer(name)} leaves the range of float32 already; no bundle was written: "
                        "export a checkpoint of a training that converged"
                    )
        return np.asarray(values[LOGITS][0, 0])

    def by_layer(self) -> dict[str, float]:
        """The largest magnitude of each layer, the furthest first."""
        layers: dict[str, float] = {}
        for name, figure in self.ranges.largest.items():
            layer = self._layer(name)
            layers[layer] = max(figure, layers.get(layer, 0.0))
        return dict(sorted(layers.items(), key=lambda item: -item[1]))

    def _layer(self, value: str) -> str:
        return next((layer_of(node) for node in self._network.graph.node if value in node.output), value)


class _WatchedPart:
    """One group of layers with one more output per value looked at."""

    def __init__(self, model: ModelProto) -> None:
        self._read = [value.name for value in model.graph.input]
        self._made = [value.name for value in model.graph.output]
        self._largest, self._sums, watched = _watched(model)
        self._session = session(watched)

    def run(self, values: dict[str, NDArray[np.float32]], ranges: Ranges) -> dict[str, float]:
        """Add what the group makes to `values`, what it reached to `ranges`; the largest magnitudes of this run."""
        names = [*self._made, *self._largest, *self._sums]
        answers = dict(zip(names, self._session.run(names, {name: values[name] for name in self._read}), strict=True))
        values |= {name: answers[name] for name in self._made}
        largest = {value: float(answers[name]) for name, value in self._largest.items()}
        sums = {pool: float(answers[name]) for name, pool in self._sums.items()}
        for reached, kept in ((largest, ranges.largest), (sums, ranges.plane_sums)):
            for name, figure in reached.items():
                kept[name] = max(figure, kept.get(name, 0.0))
        return largest


def necessary_islands(network: ModelProto, ranges: Ranges) -> dict[str, str]:
    """Nodes that must compute in float32 whatever a Dice on a CPU says, each with its reason.

    A value that float16 cannot hold makes islands of the node that makes it and of all that read it, because it must
    never be cast.
    """
    sizes = {name: plane_size(value) for name, value in described_values(network).items()}
    weights = {tensor.name: tensor for tensor in network.graph.initializer if tensor.data_type == FLOAT}
    reach = dict(ranges.largest)
    reasons: dict[str, str] = {}
    for node in network.graph.node:
        if node.op_type in _NEVER_LARGER and node.op_type != "Sigmoid":
            reach.setdefault(node.output[0], max(reach.get(name, 0.0) for name in node.input))
        far = max((reach.get(name, 0.0) for name in (*node.input, *node.output)), default=0.0)
        if far > SAFE_MAGNITUDE:
            reasons[node.name] = f"values over {SAFE_MAGNITUDE:.0f}"
        elif any(_largest_weight(weights[name]) > FLOAT16_MAX for name in node.input if name in weights):
            reasons[node.name] = f"weights over {FLOAT16_MAX:.0f}"
        elif node.op_type in POOLS and ranges.plane_sums.get(node.name, 0.0) > SAFE_MAGNITUDE:
            reasons[node.name] = f"plane sums over {SAFE_MAGNITUDE:.0f}"
        elif node.op_type == LOCAL_POOL and _window(node) * reach.get(node.input[0], 0.0) > SAFE_MAGNITUDE:
            reasons[node.name] = f"window sums over {SAFE_MAGNITUDE:.0f}"
        elif node.op_type in POOLS and sizes.get(node.input[0], 0) > COUNTABLE:
            reasons[node.name] = f"planes of over {COUNTABLE} values"
    return reasons


def _window(pool: NodeProto) -> int:
    """Number of values that a local pool sums."""
    return math.prod(next(list(entry.ints) for entry in pool.attribute if entry.name == "kernel_shape"))


def _largest_weight(tensor: onnx.TensorProto) -> float:
    return float(np.abs(numpy_helper.to_array(tensor)).max(initial=0.0))


def _watched(network: ModelProto) -> tuple[dict[str, str], dict[str, str], ModelProto]:
    """The network with one more output per value looked at; names of these outputs, to values and to pools."""
    types = value_types(network)
    watched = ModelProto()
    watched.CopyFrom(network)
    largest: dict[str, str] = {}
    sums: dict[str, str] = {}
    nodes: list[NodeProto] = []
    for node in network.graph.node:
        for name in [TENSOR] * (not nodes) + list(node.output):
            if types.get(name) == FLOAT and (node.op_type not in _NEVER_LARGER or name == TENSOR):
                largest[f"{name}/largest"] = name
                nodes += _largest_of(helper.make_node("Abs", [name], [f"{name}/magnitude"]), f"{name}/largest")
        if node.op_type in POOLS:
            sums[f"{node.name}/sum"] = node.name
            nodes += _largest_of(_plane_sum(node), f"{node.name}/sum")
    watched.graph.node.extend(nodes)
    watched.graph.output.extend(helper.make_tensor_value_info(name, FLOAT, []) for name in (*largest, *sums))
    watched.graph.initializer.append(numpy_helper.from_array(np.array([2, 3], np.int64), "plane axes"))
    return largest, sums, watched


def _largest_of(first: NodeProto, output: str) -> list[NodeProto]:
    return [first, helper.make_node("ReduceMax", [first.output[0]], [output], keepdims=0)]


def _plane_sum(pool: NodeProto) -> NodeProto:
    axes = pool.input[1] if len(pool.input) > 1 else "plane axes"
    return helper.make_node("ReduceL1", [pool.input[0], axes], [f"{pool.name}/sums"])
