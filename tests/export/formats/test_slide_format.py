"""The slide artefact: local pools, one graph for tiles of any size, certified on frames laid out large."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from breastseg_deploy.artefacts import SlideTiles, details_of
from breastseg_deploy.backends.onnxruntime import OnnxRuntimeTiles
from breastseg_deploy.backends.openvino_tiles import OpenVinoTiles
from breastseg_deploy.backends.tiles import run_golden_tile
from breastseg_deploy.bundle import MANIFEST, SLIDE, SLIDE_GOLDEN, SLIDE_NETWORK, Bundle
from breastseg_deploy.errors import ArgumentError, BackendError, BundleError, ParityError
from breastseg_deploy.segmenter import Segmenter
from breastseg_export.exporter import export_bundle
from breastseg_export.formats.slide import refuse_global_pools, windows_for, with_local_pools
from breastseg_export.graph import export_tile_network, global_pools
from breastseg_export.settings import ExportSettings
from breastseg_train.network.architecture import Architecture
from breastseg_train.network.checkpoint import Checkpoint, save_checkpoint
from breastseg_train.network.model import SegmentationModel

SIDE = 64


def model_of(**architecture: object) -> SegmentationModel:
    torch.manual_seed(0)
    return SegmentationModel(Architecture("resnet18", (16,) * 5, **architecture)).eval()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    place = tmp_path_factory.mktemp("slide")
    save_checkpoint(Checkpoint(model_of()), place / "small.safetensors")
    export_bundle(ExportSettings(str(place / "small.safetensors"), place / "bundle", "fp32", size_px=SIDE))
    return Bundle.open(place / "bundle")


def told(bundle: Bundle) -> SlideTiles:
    (tiles,) = details_of(bundle.manifest, SLIDE, SlideTiles)
    return tiles


def test_the_manifest_says_how_slides_are_cut_and_how_well_two_grids_agree(bundle: Bundle) -> None:
    tiles = told(bundle)
    assert {SLIDE_NETWORK, SLIDE_GOLDEN} <= bundle.manifest.files.keys()
    assert (tiles.window_px, tiles.tile_px, tiles.halo_px) == (64, 256, 64)
    assert tiles.pools > 0
    assert tiles.parity.worst_dice >= 0.9999
    assert tiles.agreement.tiles > 1
    assert tiles.limit_ppm == 3000
    assert "slide grids" in (bundle.path / "report.html").read_text()


def test_one_graph_answers_tiles_of_every_size_as_pytorch_with_the_same_pools() -> None:
    model, _ = with_local_pools(model_of(), 64)
    graph = export_tile_network(model)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    for size_px in ((32, 32), (64, 96), (160, 32), (224, 256)):
        tensor = torch.randn(1, 4, *size_px, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            expected = model(tensor).sigmoid().numpy()
        np.testing.assert_allclose(session.run(None, {"tensor": tensor.numpy()})[0], expected, atol=1e-5)


def test_a_network_trained_with_windows_keeps_its_own() -> None:
    model = model_of(pool_window_px=128)
    local, pools = with_local_pools(model, 128)
    tensor = torch.zeros(1, 4, 64, 64)
    with torch.inference_mode():
        assert torch.equal(local(tensor), model(tensor))
    assert pools == 0
    assert windows_for(512, 128).window_px == 128


@pytest.mark.parametrize(("size_px", "window_px"), [(96, 128), (512, 512), (1024, 512)])
def test_windows_are_as_wide_as_frames_up_to_a_limit(size_px: int, window_px: int) -> None:
    assert windows_for(size_px, None).window_px == window_px


def test_a_pool_that_was_not_replaced_is_found() -> None:
    assert global_pools(export_tile_network(model_of()))
    assert not global_pools(export_tile_network(with_local_pools(model_of(), 64)[0]))


@pytest.mark.parametrize("engine", [OnnxRuntimeTiles, OpenVinoTiles])
def test_the_golden_tile_is_reproduced_by_both_engines(
    bundle: Bundle, engine: type[OnnxRuntimeTiles] | type[OpenVinoTiles]
) -> None:
    network = engine(bundle)
    assert run_golden_tile(network, bundle, told(bundle)).largest_probability_error < 1e-4
    network.close()


def test_a_network_that_misses_the_golden_tile_segments_no_slide(bundle: Bundle) -> None:
    class Wrong(OnnxRuntimeTiles):
        def infer(self, tensor: np.ndarray) -> np.ndarray:
            return 1 - super().infer(tensor)

    with pytest.raises(ParityError, match=r"the golden tile slide/golden\.npz has Dice"):
        run_golden_tile(Wrong(bundle), bundle, told(bundle))


def test_a_bundle_without_the_artefact_says_so(tmp_path: Path) -> None:
    save_checkpoint(Checkpoint(model_of()), tmp_path / "small.safetensors")
    settings = ExportSettings(str(tmp_path / "small.safetensors"), tmp_path / "b", "fp32", size_px=SIDE, slide=False)
    export_bundle(settings)
    with pytest.raises(BundleError, match="holds no slide artefact: it was exported by an earlier version or with"):
        OnnxRuntimeTiles(Bundle.open(tmp_path / "b"))


def test_measures_that_make_no_grid_are_refused_when_a_bundle_is_opened(bundle: Bundle, tmp_path: Path) -> None:
    manifest = json.loads((bundle.path / MANIFEST).read_text())
    (artefact,) = [one for one in manifest["artefacts"] if one["role"] == SLIDE]
    artefact["details"]["halo_px"] = 100
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    for name in bundle.manifest.files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(bundle.path / name)
    with pytest.raises(BundleError, match=r"slide artefact: .*multiples of 32 px, got 256 and 100"):
        Bundle.open(tmp_path)


def test_pools_that_cannot_be_replaced_end_the_export_with_a_way_out() -> None:
    torch.manual_seed(0)
    model = SegmentationModel(Architecture("tu-resnet18", (16,) * 5)).eval()
    model.unet.encoder.model.layer1[0].act2 = _Recalibrated()
    with pytest.raises(ArgumentError, match=r"pools over whole tiles at .* export with --no-slide"):
        refuse_global_pools(export_tile_network(with_local_pools(model, 64)[0]))


class _Recalibrated(torch.nn.Module):
    """Attention of a kind that nobody knows."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features * features.mean((2, 3), keepdim=True).sigmoid()


def test_backends_that_segment_no_slides_name_those_that_do(bundle: Bundle) -> None:
    with Segmenter.open(bundle.path, "onnxruntime") as segment:
        segment.record = replace(segment.record, open_tiles=None)
        with pytest.raises(BackendError, match=r"segments no slides yet.*openvino or onnxruntime"):
            segment.slide(None, bundle.path)  # type: ignore[arg-type]


def test_the_graph_states_open_sides(bundle: Bundle) -> None:
    graph = onnx.load(bundle.path / SLIDE_NETWORK)
    sides = [dim.dim_param or dim.dim_value for dim in graph.graph.input[0].type.tensor_type.shape.dim]
    assert sides == [1, 4, "H", "W"]
