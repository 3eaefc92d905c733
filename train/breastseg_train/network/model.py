"""What is trained: a front from four channels to three, and a segmentation network; the paper's by default."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from breastseg_deploy.contract import check_model_size
from breastseg_deploy.errors import ArgumentError, CheckpointError, MachineError
from breastseg_train.network.architecture import NO_ENCODER, PAPER_NETWORK, Architecture
from breastseg_train.network.encoder_package import PACKAGE, load_encoder_package
from breastseg_train.network.front import FRONTS
from breastseg_train.network.local_pools import pool_locally

DECODER_LEVELS = 5
SCSE_REDUCTION = 16
_REASON_LENGTH = 200


class SegmentationModel(nn.Module):
    """A front and a network; by default projection + UNet++ with SCSE, paper section III C.

    Input (N, 4, H, W) float, as `preprocess.tensor.network_input` makes it, H and W multiples of 32; output
    (N, 1, H, W) logits of "breast cell".

    Args:
        architecture: what to build.
        encoder_weights: a weight set's name in segmentation-models-pytorch ("imagenet", downloaded by it), "package"
            for those of an installed package (`encoder_package`), the path of a safetensors file with an encoder's
            state, or None for random weights.

    Attributes:
        architecture: as given.
        weights_from: what is known of the weights that the encoder starts with; None for random ones.

    Raises:
        ArgumentError: a network, front or encoder that nobody knows, or a decoder that is too narrow.
        CheckpointError: an encoder file that does not fit.
        MachineError: weights that cannot be downloaded or are not installed.
    """

    def __init__(self, architecture: Architecture, encoder_weights: str | Path | None = None) -> None:
        super().__init__()
        if len(architecture.decoder_channels) != DECODER_LEVELS or min(architecture.decoder_channels) < SCSE_REDUCTION:
            raise ArgumentError(
                f"a decoder needs {DECODER_LEVELS} widths of at least {SCSE_REDUCTION} (SCSE squeezes by that factor), "
                f"got {architecture.decoder_channels}"
            )
        if architecture.front not in FRONTS:
            raise ArgumentError(f"there is no front {architecture.front!r}; choose one of {', '.join(FRONTS)}")
        self.architecture = architecture
        self.projection = FRONTS[architecture.front]()
        self.weights_from: dict[str, str] | None = None
        self.unet: Any
        if architecture.network == PAPER_NETWORK:
            self.unet, self.weights_from = _unet_plus_plus(architecture, encoder_weights)
        else:
            self.unet = _network_with_its_own_encoder(architecture, encoder_weights)

    def forward(self, tensor: Tensor) -> Tensor:
        """Logits (N, 1, H, W) of the normalised 4-channel tensor (N, 4, H, W)."""
        if self.architecture.network == PAPER_NETWORK:
            # The parts are called one by one: smp's own forward checks the size in a way that tracing cannot follow.
            return self.decode(self.encode(tensor))
        check_model_size((tensor.shape[-2], tensor.shape[-1]))
        logits: Tensor = self.unet(self.projection(tensor))
        return logits

    def encode(self, tensor: Tensor) -> list[Tensor]:
        """The encoder's features of the paper's network, from the finest, (N, C, H / 2, W / 2), to H / 32."""
        check_model_size((tensor.shape[-2], tensor.shape[-1]))
        features: list[Tensor] = self.unet.encoder(self.projection(tensor))
        return features[1:]  # the first is the encoder's input, which no decoder reads

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """Logits (N, 1, H, W) of what `encode` made."""
        unused = features[0]  # where smp's decoder expects the encoder's input
        logits: Tensor = self.unet.segmentation_head(self.unet.decoder([unused, *features]))
        return logits


def _unet_plus_plus(
    architecture: Architecture, encoder_weights: str | Path | None
) -> tuple[Any, dict[str, str] | None]:
    """The paper's network, and what is known of the weights of its encoder."""
    if architecture.dropout:
        raise ArgumentError(f"{PAPER_NETWORK} has no dropout, got {architecture.dropout}; leave it 0")
    named = None
    if isinstance(encoder_weights, str) and encoder_weights != PACKAGE and not Path(encoder_weights).is_file():
        named = encoder_weights
    try:
        network = smp.UnetPlusPlus(
            architecture.encoder,
            encoder_weights=named,
            decoder_channels=architecture.decoder_channels,
            decoder_attention_type="scse",
        )
    except KeyError as err:
        raise ArgumentError(
            f"segmentation-models-pytorch knows no encoder {architecture.encoder!r} with weights {named!r}; "
            "segmentation_models_pytorch.encoders.get_encoder_names() lists what there is"
        ) from err
    except OSError as err:
        raise MachineError(
            f"the weights {named!r} of {architecture.encoder} cannot be downloaded ({err}); fetch them elsewhere "
            "and pass the safetensors file as --encoder-weights, or omit it to start from random weights"
        ) from err
    if architecture.pool_window_px is not None:
        pool_locally(network.decoder, architecture.pool_window_px)
    if encoder_weights is None:
        return network, None
    if encoder_weights == PACKAGE:
        return network, load_encoder_package(network.encoder, architecture.encoder)
    if named is None:
        return network, _load_encoder(network.encoder, architecture.encoder, Path(encoder_weights))
    return network, {"source": "segmentation-models-pytorch", "weights": named}


def _network_with_its_own_encoder(architecture: Architecture, encoder_weights: str | Path | None) -> nn.Module:
    from breastseg_train.paper.baselines import NETWORKS  # MONAI takes seconds to import

    if architecture.network not in NETWORKS:
        known = ", ".join((PAPER_NETWORK, *NETWORKS))
        raise ArgumentError(f"there is no network {architecture.network!r}; choose one of {known}")
    if architecture.encoder != NO_ENCODER or encoder_weights is not None:
        raise ArgumentError(
            f"the network {architecture.network} has an encoder of its own and takes no "
            f"{architecture.encoder!r} and no encoder weights; name the encoder {NO_ENCODER!r} and leave "
            "--encoder-weights away"
        )
    return NETWORKS[architecture.network](architecture.decoder_channels[::-1], architecture.dropout)


def _load_encoder(encoder: nn.Module, name: str, path: Path) -> dict[str, str]:
    """Load an encoder's state from a file, and say which it was."""
    try:
        encoder.load_state_dict(load_file(path))
        return {"source": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    except (OSError, RuntimeError, SafetensorError) as err:
        reason = " ".join(str(err).split())[:_REASON_LENGTH]  # PyTorch lists every tensor
        raise CheckpointError(f"{path} must hold the state of an {name} encoder as safetensors: {reason}") from err
