"""The paper's architecture, and how its projection starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from segmentation_models_pytorch import encoders

from breastseg_deploy.errors import ArgumentError, CheckpointError, FrameError, MachineError
from breastseg_train.network.architecture import Architecture
from breastseg_train.network.front import Projection
from breastseg_train.network.model import SegmentationModel

SMALL = Architecture("efficientnet-b0", (16, 16, 16, 16, 16))


@pytest.fixture(scope="module")
def paper_model() -> SegmentationModel:
    """The B7 without memory for its weights: shapes are enough here."""
    with torch.device("meta"):
        return SegmentationModel(Architecture())


def test_the_papers_network_has_its_68_4_million_parameters(paper_model: SegmentationModel) -> None:
    millions = sum(parameter.numel() for parameter in paper_model.parameters()) / 1e6
    assert millions == pytest.approx(68.4, abs=0.1)


def test_the_encoder_has_the_papers_channels(paper_model: SegmentationModel) -> None:
    assert tuple(paper_model.unet.encoder.out_channels[1:]) == (64, 48, 80, 224, 640)


def test_the_decoder_has_the_papers_channels_and_scse_at_every_level(paper_model: SegmentationModel) -> None:
    blocks = paper_model.unet.decoder.blocks
    last_column = [blocks[f"x_0_{depth}"] for depth in range(5)]
    assert [block.conv2[0].out_channels for block in last_column] == [256, 128, 64, 32, 16]
    assert all("SCSE" in type(block.attention2.attention).__name__ for block in blocks.values())


def test_the_network_gives_one_logit_per_pixel() -> None:
    model = SegmentationModel(SMALL).eval()
    with torch.inference_mode():
        assert model(torch.zeros(2, 4, 64, 96)).shape == (2, 1, 64, 96)


def test_a_size_that_is_no_multiple_of_32_is_refused() -> None:
    with pytest.raises(FrameError, match="multiple of 32 on both sides, got 64 x 80"):
        SegmentationModel(SMALL)(torch.zeros(1, 4, 64, 80))


def test_the_projection_passes_the_colours_through_at_the_start() -> None:
    tensor = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        colours = Projection().eval()(tensor)
    assert torch.allclose(colours, tensor[:, :3], atol=1e-4)  # batch normalisation's epsilon, 1e-5, halved by the root


def test_the_projection_lets_the_edge_channel_in_with_the_first_step() -> None:
    projection = Projection()
    tensor = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    projection(tensor).square().sum().backward()
    merge = projection[3]
    assert merge.weight.grad[:, 6:].abs().min() > 0


def test_an_unknown_encoder_says_where_the_known_ones_are_listed() -> None:
    with pytest.raises(ArgumentError, match=r"'efficientnet-b77'.*get_encoder_names"):
        SegmentationModel(Architecture("efficientnet-b77", (16,) * 5))


def test_an_unknown_weight_set_is_refused_by_name() -> None:
    with pytest.raises(ArgumentError, match="'imagenet-99'"):
        SegmentationModel(SMALL, encoder_weights="imagenet-99")


def test_a_weight_set_is_fetched_by_its_name_and_an_unreachable_one_asks_for_a_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def no_network(repo_id: str, **_: object) -> str:
        asked.append(repo_id)
        raise ConnectionError("no network in tests")

    monkeypatch.setattr(encoders, "hf_hub_download", no_network)
    with pytest.raises(MachineError, match=r"weights 'imagenet' .* cannot be downloaded .*no network in tests"):
        SegmentationModel(SMALL, encoder_weights="imagenet")
    assert asked == ["smp-hub/efficientnet-b0.imagenet"]


def test_encoder_weights_are_taken_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = SegmentationModel(SMALL)
    save_file(source.unet.encoder.state_dict(), tmp_path / "encoder.safetensors")
    loaded = SegmentationModel(SMALL, encoder_weights=str(tmp_path / "encoder.safetensors"))
    expected, found = source.unet.encoder.state_dict(), loaded.unet.encoder.state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_an_encoder_file_of_another_encoder_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="must hold the state of an efficientnet-b0 encoder"):
        SegmentationModel(SMALL, encoder_weights=tmp_path / "other.safetensors")


def test_an_encoder_file_that_was_cut_short_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="must hold the state of an efficientnet-b0 encoder") as caught:
        SegmentationModel(SMALL, encoder_weights=tmp_path / "cut.safetensors")
    assert "\n" not in str(caught.value)
