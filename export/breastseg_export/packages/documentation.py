"""What a package's reader must know of the model, in Markdown: use, limits, origin, and what was measured."""

from __future__ import annotations

import hashlib

from breastseg_deploy.bundle import Bundle
from breastseg_export.packages.package import manifest_bytes


def model_page(bundle: Bundle) -> str:
    """A page about a bundle's model; every figure is the manifest's."""
    manifest = bundle.manifest
    frame = manifest.frame
    pixel = "not stated" if frame.pixel_size_um is None else f"{frame.pixel_size_um} um"
    parity = "\n".join(
        f"| {artefact.role} in {one.engine} | {one.frames} | {one.mean_dice:.6f} | {one.worst_dice:.6f} |"
        for artefact in manifest.artefacts
        for one in artefact.parity
    )
    sha256 = hashlib.sha256(manifest_bytes(bundle)).hexdigest()
    built = ", ".join(f"{name} {version}" for name, version in manifest.built_with.items())
    return f"""# {manifest.name}

{manifest.intended_use}

## Input and output
- Input `frames`: uint8 (N, {frame.height_px}, {frame.width_px}, 3) RGB, 0 to 255, as the camera gave it.
  Grey frames repeat their channel three times. Frames of another size are cut, never resized. Pixel size: {pixel}.
- Output `probability`: float32 (N, 1, {frame.height_px}, {frame.width_px}); the mask is 1 where it reaches
  {manifest.threshold}.
- Normalisation and the edge channel (maximum over a Gabor bank) are inside the model.

## Validation
Agreement of masks with the float32 reference, on {manifest.parity_frames}:

| artefact | frames | mean Dice | worst Dice |
|---|---|---|---|
{parity}

## Origin
- UNet++ with SCSE on {manifest.encoder}, decoder {", ".join(map(str, manifest.decoder_channels))}.
- Licence: {manifest.licence}
- Built {manifest.built_at} with {built}.
- SHA-256 of the bundle's manifest: `{sha256}`.
"""
