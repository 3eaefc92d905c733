"""`breastseg inspect`: what a bundle says about itself."""

from __future__ import annotations

import argparse
from pathlib import Path

from breastseg_deploy.cli.command import Command, print_json


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, help="a folder made by breastseg-export")
    parser.add_argument("--json", action="store_true", help="print the manifest as one JSON object on stdout")


def _run(arguments: argparse.Namespace) -> int:
    """Print the manifest, after every file was checked against it."""
    from breastseg_deploy.bundle import Bundle
    from breastseg_deploy.progress import Progress

    with Progress(f"opening {arguments.bundle}"):
        bundle = Bundle.open(arguments.bundle)
    manifest = bundle.manifest
    if arguments.json:
        print_json(manifest.model_dump(mode="json"))
        return 0
    frame = manifest.frame
    spacing = "unknown" if frame.pixel_size_um is None else f"{frame.pixel_size_um} um"
    rows = [
        ("name", manifest.name),
        ("intended use", manifest.intended_use),
        ("licence", manifest.licence),
        ("frame", f"{frame.height_px} x {frame.width_px} {frame.dtype} {frame.colour_order}, pixel size {spacing}"),
        ("network", f"UNet++ on {manifest.encoder}, decoder {', '.join(map(str, manifest.decoder_channels))}"),
        ("precision", manifest.precision),
        ("threshold", str(manifest.threshold)),
        ("signature", bundle.trust),
        ("built", f"{manifest.built_at}, " + ", ".join(f"{k} {v}" for k, v in manifest.built_with.items())),
    ]
    rows.append(("measured on", manifest.parity_frames))
    for artefact in manifest.artefacts:
        rows.append((artefact.role, ", ".join(artefact.files)))
        for parity in artefact.parity:
            figures = f"worst Dice {parity.worst_dice:.6f}, mean {parity.mean_dice:.6f}{parity.change_in_words}"
            rows.append(("  parity", f"in {parity.engine}: {figures}"))
        rows += [(f"  {label}", text) for label, text in artefact.facts]
    rows += [("file", f"{name}, {entry.bytes:,} bytes, all hashes match") for name, entry in manifest.files.items()]
    for key, value in rows:
        print(f"{key:25}{value}")
    return 0


COMMAND = Command("show what a bundle says about itself", _add_arguments, _run, loads=("breastseg_deploy.bundle",))
