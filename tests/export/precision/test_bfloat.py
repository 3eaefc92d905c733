"""The emulation of bfloat16: what is rounded, how, and what is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from breastseg_export.precision.bfloat import nearest_bfloat16, rounded_to_bfloat16
from breastseg_export.runners import session

FLOAT = onnx.TensorProto.FLOAT
WEIGHT, BIAS = np.float32(1 + 3 * 2**-9), np.float32(2**-9)


def network() -> ModelProto:
    """x times a weight plus a bias, then times three: a convolution of one value, and a product."""
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["tensor", "weight", "bias"], ["first"], name="convolution"),
            helper.make_node("Mul", ["first", "three"], ["logits"], name="product"),
        ],
        "two steps",
        [helper.make_tensor_value_info("tensor", FLOAT, [1, 1, 1, 1])],
        [helper.make_tensor_value_info("logits", FLOAT, [1, 1, 1, 1])],
        [
            numpy_helper.from_array(np.full((1, 1, 1, 1), WEIGHT, np.float32), "weight"),
            numpy_helper.from_array(np.full(1, BIAS, np.float32), "bias"),
            numpy_helper.from_array(np.float32(3), "three"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def answer(islands: set[str], value: float) -> float:
    rounded = rounded_to_bfloat16(network(), islands)
    onnx.checker.check_model(rounded, full_check=True)
    given = np.full((1, 1, 1, 1), value, np.float32)
    return float(session(rounded).run(None, {"tensor": given})[0].item())


def near(value: Any) -> NDArray[np.float32]:
    return nearest_bfloat16(np.asarray(value, np.float32))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1 + 2**-8, 1.0),  # a tie goes to the even neighbour
        (1 + 3 * 2**-8, 1 + 2**-6),
        (1 + 2**-8 + 2**-20, 1 + 2**-7),
        (-1 - 3 * 2**-8, -1 - 2**-6),
        (0.0, 0.0),
        (3.0e38, 2.99e38),
    ],
)
def test_values_are_rounded_to_eight_bits_ties_to_even(value: float, expected: float) -> None:
    assert near(value) == pytest.approx(expected, rel=0 if abs(value) < 10 else 0.01)


def test_the_casts_of_the_graph_round_as_the_numpy_twin() -> None:
    values = np.random.default_rng(0).normal(size=200).astype(np.float32)
    for value in values[:40]:
        assert answer({"convolution"}, float(value)) == float(near(near(value * WEIGHT + BIAS) * np.float32(3)))


def test_input_weight_and_results_are_rounded_and_a_bias_is_not() -> None:
    value = np.float32(1.7)
    first = near(near(value) * near(WEIGHT) + BIAS)
    assert answer(set(), float(value)) == float(near(first * np.float32(3)))


def test_an_island_reads_and_makes_float32() -> None:
    value = np.float32(1.7)
    assert answer({"convolution", "product"}, float(value)) == float((value * WEIGHT + BIAS) * np.float32(3))
    first = near(near(value) * near(WEIGHT) + BIAS)
    assert answer({"product"}, float(value)) == float(first * np.float32(3))
