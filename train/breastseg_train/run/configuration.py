"""What a training run is made of, and the presets: named configurations that can be run by their name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from breastseg_deploy.contract import SIDE_MULTIPLE_PX
from breastseg_deploy.errors import ArgumentError
from breastseg_train.network.architecture import NO_ENCODER, PAPER_NETWORK, Architecture

MIN_CROP_PX = 64
"""The elastic deformation smooths over 36 px to each side."""

PAPER_AUGMENTATION, WIDE_AUGMENTATION = "paper", "wide"


@dataclass(frozen=True)
class Configuration:
    """Everything that decides the outcome of a run apart from the data; stored whole in the run folder.

    Attributes:
        preset: the name it started from.
        encoder: see `model.Architecture`.
        decoder_channels: see `model.Architecture`.
        network: see `model.Architecture`.
        front: see `model.Architecture`.
        dropout: see `model.Architecture`.
        pool_window_px: see `model.Architecture`.
        crop_px: side of the square training crop; validation always sees whole frames.
        batch_size: crops per step of the model.
        accumulation: steps whose gradients are added up before the optimiser moves.
        epochs: passes of as many crops as there are training frames.
        validate_every_epochs: validation is the expensive part on a CPU.
        loss: a name in `loss_variants.LOSSES`.
        stabilised: OneCycleLR, clipping and the outlier rule; without it, lr_max throughout and the best score wins.
        lr_max: peak learning rate of OneCycleLR.
        encoder_lr_share: of every learning rate, for the encoder; under 1 where it is pretrained and the rest is not.
        lr_min: learning rate at its start and end.
        warmup_share: share of all steps on the way up.
        weight_decay: of AdamW.
        clip_norm: largest L2 norm of a gradient.
        weight_averaging: share of the old in the moving average of the weights, after each step; the average is what
            is validated and saved. None: the weights as they are.
        choose_threshold: take the threshold with the best validation Dice into the checkpoint; 0.5 otherwise.
        augmentation: "paper", or "wide" for other microscopes (`wide_augment`).
        brightness_contrast: relative range of both; 0.2 draws factors from 0.8 to 1.2. Of the paper's augmentation.
        inverted_share: of the crops, with light inverted. Of the wide augmentation.
        weighted_sampling: draw complex frames more often (`sampler`); otherwise every frame once an epoch.
        balanced_sources: draw sources and empty frames in fixed shares, mosaics by their images (`sources`).
        source_shares: relative shares of sources that are not to count alike.
        patch_sampling: centre half of the crops on a pixel of a cell, where a frame has any; the wide augmentation
            always does.
        crf: sharpen the probabilities by a conditional random field (`crf`) when the run is evaluated.
        active_learning_rounds: rounds of pseudo-labels on the frames that the model is least sure of
            (`active_learning`); 0 trains on all labels at once.
        batch_norm_momentum: share of the newest batch in the running statistics; None keeps the encoder's own, which in
            EfficientNet is 0.01: right after ImageNet, too slow for a short run from random weights.
        precision: of PyTorch Lightning, such as "32-true" or "bf16-mixed".
        workers: loader processes; 0 loads in the training process.
        seed: of the initial weights, the draws and the augmentation.

    Raises:
        ArgumentError: a crop that the network or the elastic deformation cannot carry; a last epoch without validation;
            an augmentation that nobody knows.
    """

    preset: str
    encoder: str = "efficientnet-b7"
    decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16)
    network: str = PAPER_NETWORK
    front: str = "projection"
    dropout: float = 0.0
    pool_window_px: int | None = None
    crop_px: int = 512
    batch_size: int = 4
    accumulation: int = 2
    epochs: int = 200
    validate_every_epochs: int = 1
    loss: str = "combined"
    stabilised: bool = True
    lr_max: float = 3e-4
    lr_min: float = 3e-7
    encoder_lr_share: float = 1.0
    warmup_share: float = 0.1
    weight_decay: float = 1e-4
    clip_norm: float = 0.5
    weight_averaging: float | None = None
    choose_threshold: bool = False
    augmentation: str = PAPER_AUGMENTATION
    brightness_contrast: float = 0.2
    inverted_share: float = 0.0
    weighted_sampling: bool = True
    balanced_sources: bool = False
    source_shares: Mapping[str, float] = field(default_factory=dict)
    patch_sampling: bool = False
    crf: bool = False
    active_learning_rounds: int = 0
    batch_norm_momentum: float | None = None
    precision: str = "bf16-mixed"
    workers: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.crop_px % SIDE_MULTIPLE_PX or self.crop_px < MIN_CROP_PX:
            raise ArgumentError(
                f"crop_px must be a multiple of {SIDE_MULTIPLE_PX} and at least {MIN_CROP_PX}, got {self.crop_px}"
            )
        if self.epochs < 1 or self.epochs % self.validate_every_epochs:
            raise ArgumentError(
                f"epochs must be a multiple of {self.validate_every_epochs}, so that the run ends with a validation, "
                f"got {self.epochs}"
            )
        if self.augmentation not in (PAPER_AUGMENTATION, WIDE_AUGMENTATION):
            raise ArgumentError(
                f"the augmentation is {PAPER_AUGMENTATION!r} or {WIDE_AUGMENTATION!r}, got {self.augmentation!r}"
            )

    def as_json(self) -> dict[str, Any]:
        """All fields, as they come back from a JSON file."""
        return {**asdict(self), "decoder_channels": list(self.decoder_channels)}

    def small(self) -> Configuration:
        """The same experiment at a size that two CPU cores carry in an hour, from random weights.

        What is compared (network, front, loss, sampling, stabilisation) stays; encoder, widths, crop, batch, epochs,
        learning rate and augmentation of brightness become those of the demo model.
        """
        widths = _SMALL_WIDTHS if self.network == PAPER_NETWORK else _SMALL_WIDTHS_WITHOUT_ENCODER
        encoder = _SMALL_ENCODER if self.encoder == _PAPER.encoder else self.encoder
        return replace(self, encoder=encoder, decoder_channels=widths, **_SMALL)

    def trained_for(self, epochs: int, say: Callable[[str], None] = lambda _: None) -> Configuration:
        """The same experiment over another number of epochs, validated at least as often.

        A run ends with a validation: where the interval does not divide `epochs`, the longest shorter one that does
        takes its place.

        Args:
            epochs: instead of its own.
            say: told of another interval, in a sentence.

        Raises:
            ArgumentError: fewer epochs than one.
        """
        if epochs < 1:
            raise ArgumentError(f"a run has at least 1 epoch, got {epochs}")
        interval = max(n for n in range(1, self.validate_every_epochs + 1) if epochs % n == 0)
        if interval != self.validate_every_epochs:
            say(
                f"{self.preset}: {epochs} epochs are no multiple of {self.validate_every_epochs}, so it is validated "
                f"every {interval} epochs: a run ends with a validation"
            )
        return replace(self, epochs=epochs, validate_every_epochs=interval)

    def architecture(self) -> Architecture:
        """The architecture that is trained."""
        return Architecture(
            self.encoder,
            self.decoder_channels,
            network=self.network,
            front=self.front,
            dropout=self.dropout,
            pool_window_px=self.pool_window_px,
        )


_SMALL_ENCODER = "efficientnet-b0"
_SMALL_WIDTHS = (96, 64, 48, 32, 16)
_SMALL_WIDTHS_WITHOUT_ENCODER = (384, 192, 96, 48, 24)
"""4.4 million parameters in a U-Net; UNet++ on EfficientNet-B0 has 5.0 million."""
_SMALL: dict[str, Any] = {
    "crop_px": 160,
    "batch_size": 8,
    "accumulation": 1,
    "epochs": 24,
    "validate_every_epochs": 4,
    "lr_max": 2e-3,
    "lr_min": 2e-6,
    "brightness_contrast": 0.5,
    "batch_norm_momentum": 0.1,
    "precision": "32-true",
    "workers": 1,
}

# Sections III E to III H of the paper: these are the defaults of Configuration.
_PAPER = Configuration("paper")
# The paper's baselines see the colours alone, every frame once an epoch; schedule and augmentation are the paper's, so
# that the table compares networks and losses.
_UNET = Configuration(
    "unet",
    encoder=NO_ENCODER,
    decoder_channels=(1024, 512, 256, 128, 64),
    network="unet",
    front="colours",
    loss="dice",
    weighted_sampling=False,
)
_ATTENTION_UNET = replace(_UNET, preset="attention-unet", network="attention-unet")
_ATTENTION_UNET_HYBRID = replace(_ATTENTION_UNET, preset="attention-unet-hybrid", loss="hybrid")
# A model that meets frames of microscopes that it was not trained on; start it with --encoder-weights package.
_GENERAL = Configuration(
    "general",
    encoder="tu-tf_efficientnet_lite0",
    decoder_channels=_SMALL_WIDTHS,
    crop_px=160,
    batch_size=8,
    accumulation=1,
    epochs=288,
    validate_every_epochs=24,
    lr_max=2e-3,
    lr_min=2e-6,
    encoder_lr_share=0.25,
    warmup_share=0.08,
    clip_norm=1.0,
    weight_averaging=0.998,
    choose_threshold=True,
    augmentation=WIDE_AUGMENTATION,
    balanced_sources=True,
    batch_norm_momentum=0.05,
    precision="32-true",
    workers=1,
)

PRESETS = {
    preset.preset: preset
    for preset in (
        # Table II, in its order.
        _UNET,
        _ATTENTION_UNET,
        _ATTENTION_UNET_HYBRID,
        replace(_ATTENTION_UNET_HYBRID, preset="attention-unet-mc-dropout", dropout=0.2, active_learning_rounds=3),
        replace(
            _ATTENTION_UNET_HYBRID,
            preset="multiscale-attention-unet",
            network="multiscale-attention-unet",
            patch_sampling=True,
            crf=True,
        ),
        _PAPER,
        # Single changes of the paper's run.
        replace(_PAPER, preset="no-gabor", front="projection-without-edge"),
        replace(_PAPER, preset="channel-drop", front="channel-drop"),
        replace(_PAPER, preset="no-weighted-sampling", weighted_sampling=False),
        replace(_PAPER, preset="boundary-aware", loss="boundary-aware"),
        replace(_PAPER, preset="hybrid-loss", loss="hybrid"),
        # What the paper's stabilisation is measured against (section IV B).
        replace(_PAPER, preset="unstabilised", stabilised=False),
        _GENERAL,
    )
}

TABLE_II = (
    "unet",
    "attention-unet",
    "attention-unet-hybrid",
    "attention-unet-mc-dropout",
    "multiscale-attention-unet",
    "paper",
)
"""The rows of the paper's Table II."""


def preset_configuration(name: str, presets: Mapping[str, Configuration] = PRESETS) -> Configuration:
    """The preset of that name.

    Raises:
        ArgumentError: there is none.
    """
    if name not in presets:
        raise ArgumentError(f"there is no preset {name!r}; choose one of {', '.join(sorted(presets))}")
    return presets[name]
