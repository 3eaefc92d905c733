"""The profile of a network: multiplications counted from shapes, time from OpenVINO's counters, a peak beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import results

from breastseg_benchmark.profile import compiled_layers, profile_network, profiles, work_of
from breastseg_benchmark.report import report_html
from breastseg_benchmark.results import KindOfLayer, Profile
from breastseg_benchmark.tables import profile_tables
from breastseg_deploy.backends.openvino import BF16_SETTINGS
from breastseg_deploy.backends.openvino_library import SETTINGS, load_openvino
from breastseg_deploy.bundle import Bundle

SIDE = 32
WORK = {
    "wide": 8 * 4 * 9 * SIDE**2,
    "narrow": 16 * 8 * SIDE**2,
    "single": 16 * 9 * SIDE**2,
    "joined": 16 * 16 * SIDE**2,
}
"""Multiplications of the network below, by hand: output channels x input channels x kernel x pixels."""


@pytest.fixture(scope="module")
def ov() -> Any:
    return load_openvino()


def tiny_network(ov: Any) -> Any:
    """A 3 x 3 convolution and its ReLU, a 1 x 1, a depthwise 3 x 3, and a matrix product over channels."""
    ops, random = ov.opset13, np.random.default_rng(0)

    def weight(*shape: int) -> Any:
        return ops.constant(random.standard_normal(shape).astype(np.float32))

    def window(convolution: Any, weights: Any, read: Any, pad: int, name: str) -> Any:
        found = convolution(read, weights, [1, 1], [pad, pad], [pad, pad], [1, 1])
        found.set_friendly_name(name)
        return found

    read = ops.parameter([1, 4, SIDE, SIDE], ov.Type.f32)
    wide = ops.relu(window(ops.convolution, weight(8, 4, 3, 3), read, 1, "wide"))
    narrow = window(ops.convolution, weight(16, 8, 1, 1), wide, 0, "narrow")
    single = window(ops.group_convolution, weight(16, 1, 1, 3, 3), narrow, 1, "single")
    pixels = ops.reshape(single, ops.constant([16, SIDE**2]), False)
    joined = ops.matmul(pixels, weight(16, 16), True, False)
    joined.set_friendly_name("joined")
    return ov.Model([joined], [read], "tiny")


def profile(ov: Any, settings: dict[str, object]) -> Profile:
    tensors = [np.random.default_rng(1).random((1, 4, SIDE, SIDE), np.float32)]
    return profile_network(ov, ov.Core(), tiny_network(ov), settings, tensors, rounds=2)


def test_multiplications_are_counted_from_shapes(ov: Any) -> None:
    found = work_of(tiny_network(ov))
    assert {name: one.multiplications for name, one in found.items()} == WORK
    assert {name: one.kind for name, one in found.items()} == {
        "wide": "3 x 3 convolution",
        "narrow": "1 x 1 convolution",
        "single": "3 x 3 depthwise convolution",
        "joined": "matrix product",
    }


def test_each_compiled_layer_has_the_multiplications_of_what_it_was_made_of(ov: Any) -> None:
    network = tiny_network(ov)
    compiled = ov.Core().compile_model(network, "CPU", SETTINGS)
    layers = compiled_layers(compiled, work_of(network))
    found = {layer.kind: layer.multiplications for layer in layers.values() if layer.multiplications}
    assert sum(found.values()) == sum(WORK.values())
    assert found["3 x 3 convolution"] == WORK["wide"]


def test_shares_are_of_all_time_and_of_all_multiplications(ov: Any) -> None:
    found = profile(ov, SETTINGS)
    assert found.multiplications == sum(WORK.values())
    assert sum(one.work_share for one in found.kinds) == pytest.approx(1)
    assert sum(one.time_share for one in found.kinds) == pytest.approx(1)
    assert [one.time_share for one in found.kinds] == sorted((one.time_share for one in found.kinds), reverse=True)


def test_speed_stands_beside_that_of_a_matrix_product_in_the_same_precision(ov: Any) -> None:
    found = profile(ov, SETTINGS)
    assert found.peak_gops.keys() == {"f32"}
    assert found.peak_gops["f32"] > 1
    for one in found.kinds:
        assert (one.gops is None) == (one.of_peak is None) == (one.work_share == 0)


def test_what_multiplies_in_bfloat16_is_held_to_a_product_in_bfloat16(ov: Any) -> None:
    if "BF16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bfloat16")
    assert "bf16" in profile(ov, BF16_SETTINGS).peak_gops


def test_what_multiplies_in_8_bits_is_held_to_a_product_in_8_bits(ov: Any) -> None:
    ops = ov.opset13
    read = ops.parameter([1, 16, SIDE, SIDE], ov.Type.f32)
    ranged = ops.fake_quantize(read, *(np.float32(bound) for bound in (0, 1, 0, 1)), 256)
    steps = np.random.default_rng(2).integers(-64, 65, (16, 16, 3, 3)).astype(np.int8)
    weight = ops.multiply(
        ops.convert(ops.constant(steps), ov.Type.f32), ops.constant(np.full((16, 1, 1, 1), 0.01, np.float32))
    )
    made = ops.convolution(ranged, weight, [1, 1], [1, 1], [1, 1], [1, 1])
    tensors = [np.random.default_rng(3).random((1, 16, SIDE, SIDE), np.float32)]
    found = profile_network(ov, ov.Core(), ov.Model([made], [read], "eight"), SETTINGS, tensors, rounds=2)
    assert found.peak_gops.keys() == {"i8"}
    assert [one.kind for one in found.kinds if one.precision == "i8"] == ["3 x 3 convolution"]


def test_a_bundles_network_loses_no_multiplication_to_what_openvino_fuses(demo_bundle: Path) -> None:
    bundle = Bundle.open(demo_bundle)
    frames = np.stack([golden.frame for golden in bundle.goldens()])
    ours, eight = profiles(bundle, ("openvino", "openvino-int8", "onnxruntime"), frames, rounds=1)
    assert (ours.backend, ours.not_run) == ("openvino", None)
    assert sum(one.work_share for one in ours.kinds) == pytest.approx(1)
    assert {"3 x 3 convolution", "1 x 1 convolution", "3 x 3 depthwise convolution"} < {one.kind for one in ours.kinds}
    assert eight.not_run is not None
    assert eight.not_run.startswith("the bundle holds no int8 artefact")


def test_the_tables_name_kinds_precisions_and_the_peak() -> None:
    kinds = (
        KindOfLayer(
            kind="3 x 3 convolution",
            precision="bf16",
            layers=30,
            time_share=0.5,
            work_share=0.8,
            gops=90.0,
            of_peak=0.45,
        ),
        KindOfLayer(kind="reorder", precision="", layers=4, time_share=0.1, work_share=0.0),
    )
    ran = Profile(
        backend="openvino-bf16", engine="OpenVINO 1, asked for bf16", rounds=3, layers_s=0.5,
        multiplications=75_000_000_000, peak_gops={"bf16": 200.0}, kinds=kinds,
    )  # fmt: skip
    other = Profile(backend="openvino-int8", not_run="the bundle holds no int8 artefact")
    ((title, table),) = profile_tables((ran, other))
    assert title == (
        "openvino-bf16: 75.0 G multiplications and 500 ms of layers a frame; a matrix product reaches 200 GOP/s in bf16"
    )
    assert table[1] == ("3 x 3 convolution", "bf16", "30", "50.0 %", "80.0 %", "90.0", "45 %")
    assert table[2] == ("reorder", "-", "4", "10.0 %", "-", "-", "-")
    page = report_html(results(profiles=(ran, other)))
    assert title in page
    assert "openvino-int8: not run: the bundle holds no int8 artefact" in page
