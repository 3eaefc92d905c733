"""A network on EfficientNet-Lite, with and without local pools, through every kind of export."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from breastseg_deploy.artefacts import EngineEntry, Int8Precision, details_of
from breastseg_deploy.bundle import ENGINE, GATE_ENCODER, INT8, Bundle
from breastseg_deploy.engines.flavour import FLAVOURS
from breastseg_deploy.gate import GateCalibration
from breastseg_deploy.io.images import png_bytes
from breastseg_deploy.phantom import phantom_frame
from breastseg_deploy.segmenter import Segmenter
from breastseg_deploy.storage import make_folder
from breastseg_export.exporter import export_bundle
from breastseg_export.graph import export_network
from breastseg_export.precision.ranges import Ranges, necessary_islands
from breastseg_export.runners import reference
from breastseg_export.settings import ExportSettings
from breastseg_train.network.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from breastseg_train.network.model import SegmentationModel
from breastseg_train.run.configuration import preset_configuration
from breastseg_train.run.gate import FittedGate, gate_for
from breastseg_train.run.run_folder import BEST
from breastseg_train.run.training import train

SIDE = 64
WINDOW_PX = 64
SETTINGS = replace(
    preset_configuration("general"),
    decoder_channels=(16,) * 5,
    crop_px=SIDE,
    batch_size=4,
    epochs=15,
    validate_every_epochs=15,
    weight_averaging=0.9,
    choose_threshold=False,
    workers=0,
)
"""Sixty steps, after which few pixels of a phantom lie near the threshold: what random weights cannot offer."""


def write_phantoms(folder: Path, numbers: range, masks: bool) -> Path:
    for number in numbers:
        phantom = phantom_frame(number, (2 * SIDE, 2 * SIDE))
        for kind, pixels in (("images", phantom.frame), ("masks", 255 * phantom.mask))[: 1 + masks]:
            make_folder(folder / kind)
            (folder / kind / f"{number}.png").write_bytes(png_bytes(np.asarray(pixels, np.uint8)))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    place = tmp_path_factory.mktemp("trained")
    write_phantoms(place / "data" / "train", range(100, 116), masks=True)
    write_phantoms(place / "data" / "val", range(116, 120), masks=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # frames this small are faster on one
    train(place / "data", place / "run", SETTINGS, encoder_weights="package")
    torch.set_num_threads(threads)
    return load_checkpoint(place / "run" / BEST)


@pytest.fixture(scope="module")
def with_local_pools(trained: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights, their channel attention over windows."""
    model = SegmentationModel(replace(trained.model.architecture, pool_window_px=WINDOW_PX))
    model.load_state_dict(trained.model.state_dict())
    path = tmp_path_factory.mktemp("local") / "local.safetensors"
    save_checkpoint(replace(trained, model=model), path)
    return path


@pytest.fixture(scope="module")
def bundle(with_local_pools: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In float16, with an engine where TensorRT-RTX is installed."""
    place = tmp_path_factory.mktemp("bundle") / "b"
    rtx = importlib.util.find_spec(FLAVOURS["tensorrt-rtx"].module) is not None
    engine = {"targets": ("tensorrt-rtx",), "compute_capabilities": ("8.6",)} if rtx else {}
    export_bundle(ExportSettings(str(with_local_pools), place, size_px=SIDE, **engine))  # type: ignore[arg-type]
    return place


def test_the_bundle_says_which_encoder_and_which_window(bundle: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    assert (manifest.encoder, manifest.pool_window_px) == ("tu-tf_efficientnet_lite0", WINDOW_PX)
    assert manifest.training["encoder_weights"]["licence"] == "Apache-2.0"


def test_the_runtime_answers_as_the_network_does(bundle: Path, with_local_pools: Path) -> None:
    frame = phantom_frame(12, (SIDE, SIDE)).frame
    expected = reference(load_checkpoint(with_local_pools).model)(np.repeat(frame[:, :, None], 3, 2))
    with Segmenter.open(bundle) as segment:
        np.testing.assert_allclose(segment(frame).probability, expected, atol=2e-5)


def test_every_convolution_of_the_engine_is_half_but_its_islands(bundle: Path) -> None:
    engines = details_of(Bundle.open(bundle).manifest, ENGINE, EngineEntry)
    if not engines:
        pytest.skip("TensorRT-RTX is not installed: pip install 'breastseg-deploy[tensorrt-rtx]'")
    types = engines[0].layer_types["CONVOLUTION"]
    assert sum(types.values()) == 136
    assert types["HALF"] > 100


def test_it_exports_in_8_bits(with_local_pools: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    calibration = write_phantoms(tmp_path / "calibration", range(200, 232), masks=False) / "images"
    settings = ExportSettings(
        str(with_local_pools), tmp_path / "b", "int8", size_px=2 * SIDE, calibrate=calibration, slide=False
    )
    frames = write_phantoms(tmp_path / "frames", range(24), masks=True)
    export_bundle(replace(settings, frames=frames))
    (found,) = details_of(Bundle.open(tmp_path / "b").manifest, INT8, Int8Precision)
    assert found.quantised


def test_a_gate_reads_its_encoder(trained: Checkpoint, tmp_path: Path) -> None:
    calibration = GateCalibration(
        recall=0.9,
        threshold=0.0,
        miss_bound=0.1,
        frames_with_cells=9,
        frames_empty=1,
        empty_skipped=1.0,
        size_px=(SIDE, SIDE),
        fitted_on="fit",
        calibrated_on="calibrate",
        data_sha256="0" * 64,
    )
    gate = gate_for(trained.model).eval()
    with torch.no_grad():
        gate.score.weight.zero_()
        gate.score.bias.fill_(1.0)  # nobody fitted it: it lets every frame through
    gated = replace(trained, gate=FittedGate(gate, calibration))
    save_checkpoint(gated, tmp_path / "gated.safetensors")
    export_bundle(
        ExportSettings(str(tmp_path / "gated.safetensors"), tmp_path / "b", "fp32", size_px=SIDE, slide=False)
    )
    assert GATE_ENCODER in Bundle.open(tmp_path / "b").manifest.files


def test_a_local_pool_whose_sum_could_leave_float16_is_an_island(with_local_pools: Path) -> None:
    network = export_network(load_checkpoint(with_local_pools).model, (SIDE, SIDE))
    windows = {
        node.name: next(list(entry.ints) for entry in node.attribute if entry.name == "kernel_shape")
        for node in network.graph.node
        if node.op_type == "AveragePool"
    }
    everything = {name: 10.0 for node in network.graph.node for name in (*node.input, *node.output)}
    islands = necessary_islands(network, Ranges(largest=everything))
    assert {name for name, window in windows.items() if window == [32, 32]} == set(islands)
    assert set(islands.values()) == {"window sums over 8188"}
