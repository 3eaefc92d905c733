"""A U-Net that trains in seconds: what the tests of tables and rounds train."""

from __future__ import annotations

from breastseg_train.network.architecture import NO_ENCODER
from breastseg_train.run.configuration import Configuration

UNET = Configuration(
    "unet",
    encoder=NO_ENCODER,
    decoder_channels=(16,) * 5,
    network="unet",
    front="colours",
    crop_px=64,
    batch_size=2,
    accumulation=1,
    epochs=1,
    loss="dice",
    weighted_sampling=False,
    precision="32-true",
    workers=0,
)
