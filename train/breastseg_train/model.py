"""The paper's network: 4-to-3 projection, EfficientNet encoder, UNet++ decoder with SCSE, one logit."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from breastseg_deploy.contract import check_model_size
from breastseg_deploy.errors import CheckpointError, ContractError, MachineError
from breastseg_deploy.gabor import GaborParameters

INPUT_CHANNELS = 4
PROJECTION_WIDTH = 16
DECODER_LEVELS = 5
SCSE_REDUCTION = 16
_REASON_LENGTH = 200


@dataclass(frozen=True)
class Architecture:
    """What must be known to build the network again; stored in every checkpoint and bundle.

    Attributes:
        encoder: an encoder name of segmentation-models-pytorch.
        decoder_channels: width of the decoder's last column from the coarsest level to the finest.
        gabor: the bank of the edge channel that the network was trained with.
    """

    encoder: str = "efficientnet-b7"
    decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16)
    gabor: GaborParameters = field(default_factory=GaborParameters)


class SegmentationModel(nn.Module):
    """Projection + UNet++ with SCSE, paper section III C.

    Input (N, 4, H, W) float, as `breastseg_deploy.preprocess.network_input` makes it, H and W multiples of 32; output
    (N, 1, H, W) logits of "breast cell".

    Args:
        architecture: what to build.
        encoder_weights: a weight set's name in segmentation-models-pytorch ("imagenet", downloaded by it), the path of
            a safetensors file with an encoder's state, or None for random weights.

    Raises:
        ContractError: an encoder that segmentation-models-pytorch does not know, or a decoder that is too narrow.
        CheckpointError: an encoder file that does not fit.
        MachineError: weights that cannot be downloaded.
    """

    def __init__(self, architecture: Architecture, encoder_weights: str | Path | None = None) -> None:
        super().__init__()
        if len(architecture.decoder_channels) != DECODER_LEVELS or min(architecture.decoder_channels) < SCSE_REDUCTION:
            raise ContractError(
                f"a decoder needs {DECODER_LEVELS} widths of at least {SCSE_REDUCTION} (SCSE squeezes by that factor), "
                f"got {architecture.decoder_channels}"
            )
        self.architecture = architecture
        named = encoder_weights if isinstance(encoder_weights, str) and not Path(encoder_weights).is_file() else None
        self.projection = Projection()
        try:
            self.unet = smp.UnetPlusPlus(
                architecture.encoder,
                encoder_weights=named,
                decoder_channels=architecture.decoder_channels,
                decoder_attention_type="scse",
            )
        except KeyError as err:
            raise ContractError(
                f"segmentation-models-pytorch knows no encoder {architecture.encoder!r} with weights {named!r}; "
                "segmentation_models_pytorch.encoders.get_encoder_names() lists what there is"
            ) from err
        except OSError as err:
            raise MachineError(
                f"the weights {named!r} of {architecture.encoder} cannot be downloaded ({err}); fetch them elsewhere "
                "and pass the safetensors file as --encoder-weights, or leave it away to start from random weights"
            ) from err
        if encoder_weights is not None and named is None:
            self._load_encoder(Path(encoder_weights))

    def forward(self, tensor: Tensor) -> Tensor:
        """Logits (N, 1, H, W) of the normalised 4-channel tensor (N, 4, H, W)."""
        check_model_size((tensor.shape[-2], tensor.shape[-1]))
        # The parts are called one by one: smp's own forward checks the size in a way that tracing cannot follow.
        features = self.unet.encoder(self.projection(tensor))
        logits: Tensor = self.unet.segmentation_head(self.unet.decoder(features))
        return logits

    def _load_encoder(self, path: Path) -> None:
        try:
            self.unet.encoder.load_state_dict(load_file(path))
        except (OSError, RuntimeError, SafetensorError) as err:
            reason = " ".join(str(err).split())[:_REASON_LENGTH]  # PyTorch lists every tensor
            raise CheckpointError(
                f"{path} must hold the state of an {self.architecture.encoder} encoder as safetensors: {reason}"
            ) from err


class Projection(nn.Sequential):
    """Conv3x3(4 -> 16) - BN - ReLU - Conv1x1(16 -> 3), paper eq. (2), started as the identity on the colour channels.

    ReLU would cut the negative half of the normalised colours, so each colour enters once as x and once as -x:
    relu(x) - relu(-x) = x. The other hidden channels start at random and unused; training decides what they carry.
    """

    def __init__(self) -> None:
        spread = nn.Conv2d(INPUT_CHANNELS, PROJECTION_WIDTH, 3, padding=1, bias=False)
        merge = nn.Conv2d(PROJECTION_WIDTH, 3, 1)
        with torch.no_grad():
            merge.weight.zero_()
            merge.bias.zero_() if merge.bias is not None else None
            for colour in range(3):
                for sign, hidden in ((1.0, 2 * colour), (-1.0, 2 * colour + 1)):
                    spread.weight[hidden] = 0
                    spread.weight[hidden, colour, 1, 1] = sign
                    merge.weight[colour, hidden, 0, 0] = sign
        super().__init__(spread, nn.BatchNorm2d(PROJECTION_WIDTH), nn.ReLU(inplace=True), merge)
