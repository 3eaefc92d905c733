"""The networks of Table II beside the paper's own, and the fronts they stand behind."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from monai.networks.blocks.aspp import SimpleASPP
from monai.networks.blocks.squeeze_and_excitation import ChannelSELayer
from monai.networks.nets.attentionunet import AttentionBlock

from breastseg_deploy.errors import ArgumentError
from breastseg_train.network.architecture import NO_ENCODER, Architecture
from breastseg_train.network.front import FRONTS
from breastseg_train.network.model import SegmentationModel
from breastseg_train.paper.baselines import NETWORKS

NARROW = Architecture(NO_ENCODER, (48, 40, 32, 24, 16), network="unet", front="colours")


@pytest.fixture
def tensor() -> torch.Tensor:
    return torch.randn(2, 4, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_gives_a_logit_per_pixel_and_reaches_every_weight(network: str, tensor: torch.Tensor) -> None:
    model = SegmentationModel(replace(NARROW, network=network))
    logits = model(tensor)
    assert logits.shape == (2, 1, 64, 96)
    logits.square().sum().backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


def test_widths_are_named_from_the_coarsest_level_as_in_a_decoder() -> None:
    model = SegmentationModel(NARROW)
    assert model.unet.final_conv.in_channels == 16
    assert model.unet.down_4.convs.conv_1.conv.out_channels == 48


def test_the_attention_unets_have_a_gate_at_every_skip() -> None:
    for network in ("attention-unet", "multiscale-attention-unet"):
        model = SegmentationModel(replace(NARROW, network=network))
        assert sum(isinstance(layer, AttentionBlock) for layer in model.modules()) == 4


def test_the_multi_scale_network_pools_at_its_bottom_and_squeezes_at_every_level() -> None:
    model = SegmentationModel(replace(NARROW, network="multiscale-attention-unet"))
    (pyramid,) = (layer for layer in model.modules() if isinstance(layer, SimpleASPP))
    assert sorted(conv.dilation[0] for conv in pyramid.convs) == [1, 2, 4, 6]
    assert sum(isinstance(layer, ChannelSELayer) for layer in model.modules()) == 9


def test_dropout_acts_in_training_only(tensor: torch.Tensor) -> None:
    model = SegmentationModel(replace(NARROW, network="attention-unet", dropout=0.3))
    with torch.inference_mode():
        assert not torch.equal(model(tensor), model(tensor))
        model.eval()
        assert torch.equal(model(tensor), model(tensor))


def test_an_unknown_network_is_answered_with_those_there_are() -> None:
    with pytest.raises(ArgumentError, match=r"no network 'vnet'; choose one of unet\+\+, unet"):
        SegmentationModel(replace(NARROW, network="vnet"))


def test_an_unknown_front_is_answered_with_those_there_are() -> None:
    with pytest.raises(ArgumentError, match=r"no front 'back'; choose one of projection"):
        SegmentationModel(replace(NARROW, front="back"))


def test_a_network_with_its_own_encoder_takes_no_other() -> None:
    with pytest.raises(ArgumentError, match="takes no 'efficientnet-b0'"):
        SegmentationModel(replace(NARROW, encoder="efficientnet-b0"))
    with pytest.raises(ArgumentError, match="no encoder weights"):
        SegmentationModel(NARROW, encoder_weights="imagenet")


def test_the_papers_network_has_no_dropout() -> None:
    with pytest.raises(ArgumentError, match="has no dropout"):
        SegmentationModel(Architecture("efficientnet-b0", (16,) * 5, dropout=0.1))


def test_the_front_without_edge_is_blind_to_it_and_the_papers_is_not(tensor: torch.Tensor) -> None:
    torch.manual_seed(0)
    changed = tensor.clone()
    changed[:, 3] += 1
    for name, blind in (("projection", False), ("projection-without-edge", True), ("colours", True)):
        front = FRONTS[name]()
        if name.startswith("projection"):  # started as the identity on the colours: let the hidden channels through
            torch.nn.init.ones_(list(front.modules())[-1].weight)
        assert torch.equal(front(tensor), front(changed)) == blind, name


def test_channel_drop_puts_the_edge_in_the_place_of_blue(tensor: torch.Tensor) -> None:
    assert torch.equal(FRONTS["channel-drop"]()(tensor), tensor[:, (0, 1, 3)])


@pytest.mark.parametrize("front", FRONTS)
def test_every_front_suits_the_papers_network(front: str, tensor: torch.Tensor) -> None:
    model = SegmentationModel(Architecture("resnet18", (16,) * 5, front=front)).eval()
    with torch.inference_mode():
        assert model(tensor).shape == (2, 1, 64, 96)
    assert model.architecture.is_the_papers == (front == "projection")
