"""What must be known to build a network again. Nothing is built here, so that it can be read without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, field

from breastseg_deploy.preprocess.gabor import GaborParameters

PAPER_NETWORK = "unet++"
NO_ENCODER = "none"


@dataclass(frozen=True)
class Architecture:
    """What must be known to build the network again; stored in every checkpoint and bundle.

    Attributes:
        encoder: an encoder name of segmentation-models-pytorch; "none" for a network that brings its own.
        decoder_channels: width of the decoder's last column from the coarsest level to the finest; in a network without
            an encoder of its own choice, of its levels.
        gabor: the bank of the edge channel that the network was trained with.
        network: "unet++", the paper's, or a name in `networks.NETWORKS`.
        front: a name in `front.FRONTS`; "projection" is the paper's.
        dropout: share of channels dropped in training; 0 in the paper's network.
        pool_window_px: side of the window that the decoder's channel attention pools over, see `local_pools`; None, the
            paper's, pools over the whole frame.
    """

    encoder: str = "efficientnet-b7"
    decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16)
    gabor: GaborParameters = field(default_factory=GaborParameters)
    network: str = PAPER_NETWORK
    front: str = "projection"
    dropout: float = 0.0
    pool_window_px: int | None = None

    @property
    def is_the_papers(self) -> bool:
        """Whether it is UNet++ behind the learnable projection, whatever its encoder: what can be exported."""
        return (self.network, self.front) == (PAPER_NETWORK, "projection")
