"""INT8: which convolutions are quantised, and what NNCF is not trusted with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import onnx
import pytest
from written_phantoms import SIZE, write_phantoms

from breastseg_deploy import BackendError, FrameError
from breastseg_deploy.preprocess.gabor import GaborParameters
from breastseg_export.formats import int8
from breastseg_export.formats.int8 import chosen_convolutions, quantised_network
from breastseg_export.graph import export_network
from breastseg_export.named_frames import NamedFrame, NamedFrames
from breastseg_export.precision.layers import described_values, groups, plane_size
from breastseg_train.network.architecture import Architecture
from breastseg_train.network.checkpoint import load_checkpoint
from breastseg_train.network.model import SegmentationModel


class Gone(NamedFrames):
    """Frames that disappear once they were checked."""

    def __getitem__(self, index: int) -> NamedFrame:  # type: ignore[override]
        raise FrameError(f"frame {index} is gone")


@pytest.fixture(scope="module")
def network() -> onnx.ModelProto:
    return export_network(load_checkpoint("demo").model, SIZE)


def quantised(network: onnx.ModelProto, calibration: NamedFrames) -> int8.QuantisedNetwork:
    return quantised_network(network, GaborParameters(), SIZE, calibration)


def convolutions_by_group(encoder: str) -> tuple[set[str], dict[str, set[str]]]:
    """What is chosen of a network, and in each of its groups what is neither depthwise nor of pooled values."""
    network = export_network(SegmentationModel(Architecture(encoder, (16,) * 5)).eval(), (64, 64))
    values, shapes = described_values(network), {one.name: one.dims for one in network.graph.initializer}
    of_planes = {
        group.name: {
            node.name
            for node in group.nodes
            if node.op_type == "Conv" and plane_size(values[node.output[0]]) > 1 and shapes[node.input[1]][1] > 1
        }
        for group in groups(network)
    }
    return chosen_convolutions(network), of_planes


def test_without_squeeze_and_excitation_all_is_chosen_but_what_reads_the_frame_and_the_head() -> None:
    chosen, of_planes = convolutions_by_group("tu-tf_efficientnet_lite0")
    kept = set().union(*(of_planes.pop(name) for name in ("projection", "stem", "head")))
    assert chosen == set().union(*of_planes.values())
    assert kept.isdisjoint(chosen)


def test_with_squeeze_and_excitation_nothing_of_the_encoder_is_chosen() -> None:
    chosen, of_planes = convolutions_by_group("efficientnet-b0")
    assert chosen
    assert chosen < set().union(*(nodes for name, nodes in of_planes.items() if name.startswith("decoder")))


def test_a_frame_that_disappears_is_not_put_down_to_nncf(network: onnx.ModelProto, tmp_path: Path) -> None:
    with pytest.raises(FrameError, match="frame 0 is gone"):
        quantised(network, Gone(write_phantoms(tmp_path / "frames", 0, 8), SIZE))


def test_a_failure_of_nncf_is_named_as_one(monkeypatch: pytest.MonkeyPatch, network: onnx.ModelProto) -> None:
    def failing(*_: object, **__: object) -> Any:
        raise RuntimeError("no\nluck")

    monkeypatch.setattr("nncf.quantize", failing)
    with pytest.raises(BackendError, match=r"NNCF 3\S* failed: no luck; export fp32"):
        quantised(network, NamedFrames(None, SIZE))


def nncf_misunderstands(monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], None]) -> None:
    """NNCF, which quantises by other options than it was given."""
    quantize = import_module("nncf").quantize

    def by_others(model: Any, frames: Any, **asked: Any) -> Any:
        change(asked)
        return quantize(model, frames, **asked)

    monkeypatch.setattr("nncf.quantize", by_others)


def test_what_nncf_leaves_out_is_found(monkeypatch: pytest.MonkeyPatch, network: onnx.ModelProto) -> None:
    monkeypatch.setattr("nncf.quantize", lambda model, *_, **__: model)
    with pytest.raises(BackendError, match="must quantise 73 convolutions and did 0 of them"):
        quantised(network, NamedFrames(None, SIZE))


def test_what_nncf_does_too_much_is_found(monkeypatch: pytest.MonkeyPatch, network: onnx.ModelProto) -> None:
    def keep_one_less(asked: dict[str, Any]) -> None:
        asked["ignored_scope"] = replace(asked["ignored_scope"], names=asked["ignored_scope"].names[1:])

    nncf_misunderstands(monkeypatch, keep_one_less)
    with pytest.raises(BackendError, match="must quantise 73 convolutions and did 73 of them and 1 more"):
        quantised(network, NamedFrames(None, SIZE))


def without_smoothing(asked: dict[str, Any]) -> None:
    asked["advanced_parameters"].smooth_quant_alphas.convolution = -1


def without_overflow_fix(asked: dict[str, Any]) -> None:
    asked["advanced_parameters"].overflow_fix = import_module("nncf").OverflowFix.DISABLE


@pytest.mark.parametrize(
    ("change", "words"),
    [(without_smoothing, "applied no SmoothQuant"), (without_overflow_fix, "gave weights more than 7 bits")],
)
def test_what_nncf_leaves_out_of_the_recipe_is_found(
    change: Callable[[dict[str, Any]], None], words: str, monkeypatch: pytest.MonkeyPatch, network: onnx.ModelProto
) -> None:
    nncf_misunderstands(monkeypatch, change)
    with pytest.raises(BackendError, match=words):
        quantised(network, NamedFrames(None, SIZE))
