"""The float16 network as an engine may run it that adds up in float16 too."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper
from torch import Tensor
from torch.nn import functional

from breastseg_deploy.bundle import TENSOR
from breastseg_deploy.errors import ArgumentError
from breastseg_deploy.preprocess.gabor import GaborParameters
from breastseg_deploy.preprocess.tensor import network_input
from breastseg_export.graph import LOGITS
from breastseg_export.precision.half import FLOAT16, HEAVY, explicitly_rounded, value_types
from breastseg_export.precision.layers import described_values, part
from breastseg_export.runners import Engine, Frame, Probability, probability, session

FLOAT16_SUMS = "PyTorch with float16 sums"
"""What the report and the manifest call this engine."""

PRODUCTS = 16
"""Products that are added up before the sum is rounded: what one instruction of a matrix unit takes (PTX ISA,
mma.m16n8k16 with .f16 accumulators)."""

_TILE = 2**17
"""Sums that are worked on at a time: their half MiB stays in a core's second-level cache."""

_CONVOLUTION = {"group": 1, "pads": [0, 0, 0, 0], "strides": [1, 1], "dilations": [1, 1]}
"""ONNX's defaults."""

Values = Mapping[str, NDArray[Any]]


def network_summing_in_float16(half: ModelProto, gabor: GaborParameters) -> Engine:
    """`network.fp16.onnx` behind the CPU reference preprocessing, in an engine that sums in float16.

    Raises:
        ArgumentError: see `SummedInHalf`.
    """
    network = SummedInHalf(half)

    def run(frame: Frame) -> Probability:
        return probability(network.logits(network_input(frame[np.newaxis], gabor)))

    return run


class SummedInHalf:
    """A float16 network whose convolutions round their sums again and again, as strong typing allows an engine to do.

    The types in a file say what is rounded between layers, not what an engine adds up in. Here a running sum is rounded
    after at most `PRODUCTS` products: those of as many channels at one place of a kernel, place after place. So a
    depthwise convolution rounds after every product. Between two roundings it adds in float32, and islands do so
    throughout. What lies between convolutions ONNX Runtime computes, with each value rounded as its type says.

    Args:
        half: as `half.half_network` makes it.

    Raises:
        ArgumentError: it holds float16 matrix products other than convolutions, whose sums are not modelled.
    """

    def __init__(self, half: ModelProto) -> None:
        heavy, rounded = _heavy_in_float16(half), explicitly_rounded(half)
        described = described_values(rounded)
        weights = {tensor.name: tensor for tensor in rounded.graph.initializer}
        self._steps: list[_Step] = []
        for in_float16, nodes in itertools.groupby(rounded.graph.node, lambda node: node.name in heavy):
            if in_float16:
                self._steps += [_convolution(node, weights) for node in nodes]
            else:
                self._steps.append(_between(part(rounded, list(nodes), described)))

    def logits(self, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        """(1, 4, H, W) float32 to logits (H, W) float32; infinite or NaN where a sum left the range of float16."""
        values = {TENSOR: tensor}
        last_reader = {name: step for step in self._steps for name in step.reads}
        with torch.inference_mode(), _one_thread():
            for step in self._steps:
                values |= step.run(values)
                for name in step.reads:
                    if last_reader[name] is step:  # all values of a B7 together would take 11 GB
                        del values[name]
        return np.asarray(values[LOGITS][0, 0])


@dataclass(frozen=True, eq=False)
class _Step:
    """Some nodes: the names of what they read, and what makes new values of that."""

    reads: tuple[str, ...]
    run: Callable[[Values], Values]


def _between(model: ModelProto) -> _Step:
    """What lies between two convolutions."""
    reads, makes = (tuple(value.name for value in side) for side in (model.graph.input, model.graph.output))
    onnx_session = session(model, threads=1)  # hundreds of them, with little to do each

    def run(values: Values) -> Values:
        return dict(zip(makes, onnx_session.run(makes, {name: values[name] for name in reads}), strict=True))

    return _Step(reads, run)


def _convolution(node: NodeProto, weights: Mapping[str, Any]) -> _Step:
    """One convolution; its result is rounded by the step after it."""
    options = _CONVOLUTION | {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    (read, *names), (made,) = node.input, node.output
    weight, *bias = (torch.from_numpy(numpy_helper.to_array(weights[name]).copy()) for name in names)

    def run(values: Values) -> Values:
        result = _with_rounded_sums(torch.from_numpy(values[read]), weight, options)
        return {made: (result + bias[0].view(-1, 1, 1) if bias else result).numpy()}

    return _Step((read,), run)


def _with_rounded_sums(frame: Tensor, weight: Tensor, options: Mapping[str, Any]) -> Tensor:
    """(1, C, H, W) and weights (K, C / groups, kernel, kernel) to (1, K, H', W'), in strips from top to bottom."""
    (top, left, bottom, right), groups = options["pads"], options["group"]
    (step, _), (gap, _), kernel = options["strides"], options["dilations"], weight.shape[2:]
    padded = functional.pad(frame[0], (left, right, top, bottom))
    height, width = ((padded.shape[1 + axis] - gap * (kernel[axis] - 1) - 1) // step + 1 for axis in (0, 1))
    by_place = weight.view(groups, -1, *weight.shape[1:]).permute(3, 4, 0, 1, 2).contiguous()
    result = torch.empty(weight.shape[0], height, width)
    rows = max(1, _TILE // (weight.shape[0] * width))
    for first in range(0, height, rows):
        strip = result[:, first : first + rows]
        sums = torch.zeros(*by_place.shape[2:4], strip.shape[1] * width)
        for y, x in itertools.product(*map(range, kernel)):
            read = padded[:, first * step + y * gap :: step, x * gap :: step][:, : strip.shape[1], :width]
            _add_products(sums, by_place[y, x], read.reshape(groups, weight.shape[1], -1))
        strip.copy_(sums.view_as(strip))
    return result.unsqueeze(0)


def _add_products(sums: Tensor, weights: Tensor, read: Tensor) -> None:
    """Add weights (G, K, C) times what C channels hold at P places (G, C, P) to sums (G, K, P), rounding as it goes."""
    rounded = torch.empty_like(sums, dtype=torch.float16)
    for first in range(0, weights.shape[2], PRODUCTS):
        channels = slice(first, first + PRODUCTS)
        if weights.shape[2] == 1:  # many matrix products of one number each would take several times as long
            sums.addcmul_(weights, read)
        else:
            sums.baddbmm_(weights[:, :, channels], read[:, channels])
        sums.copy_(rounded.copy_(sums))


def _heavy_in_float16(half: ModelProto) -> set[str]:
    """Names of the nodes that sum in float16."""
    types = value_types(half)
    heavy = [node for node in half.graph.node if node.op_type in HEAVY and types[node.output[0]] == FLOAT16]
    others = sorted({node.op_type for node in heavy} - {"Conv"})
    if others:
        raise ArgumentError(f"float16 sums of {', '.join(others)} are not modelled; export with --precision fp32")
    return {node.name for node in heavy}


@contextmanager
def _one_thread() -> Iterator[None]:
    """Tens of thousands of small operations: two threads would spend their time waiting for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
