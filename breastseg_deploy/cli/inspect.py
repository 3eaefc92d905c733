"""`breastseg inspect`: what a bundle says about itself."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from breastseg_deploy.cli.command import Command, print_json

if TYPE_CHECKING:  # `breastseg --help` imports this file, and pydantic is slow to import
    from breastseg_deploy.manifest import EngineEntry


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, help="a folder made by breastseg-export")
    parser.add_argument("--json", action="store_true", help="print the manifest as one JSON object on stdout")


def _run(arguments: argparse.Namespace) -> int:
    """Print the manifest, after every file was checked against it."""
    from breastseg_deploy.bundle import Bundle
    from breastseg_deploy.progress import Progress

    with Progress(f"opening {arguments.bundle}"):
        manifest = Bundle.open(arguments.bundle).manifest
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
        ("built", f"{manifest.built_at}, " + ", ".join(f"{k} {v}" for k, v in manifest.built_with.items())),
    ]
    if manifest.half is not None:
        half = manifest.half
        rows.append(("float32 islands", f"{len(half.fp32_islands)} nodes"))
        peak = f"{half.largest_activation:.1f} at {half.largest_activation_layer} (limit 65504)"
        rows.append(("largest activation", peak))
    if manifest.int8 is not None:
        int8 = manifest.int8
        rows.append(("INT8", f"{len(int8.quantised)} convolutions in 8 bits, {len(int8.float32)} in float32"))
        rows.append(("INT8 calibrated on", int8.calibration))
    for parity in manifest.parity:
        figures = f"worst Dice {parity.worst_dice:.6f}, mean {parity.mean_dice:.6f}{parity.change_in_words}"
        rows.append(("parity", f"{parity.artefact} in {parity.engine}: {figures}"))
    rows.append(("measured on", manifest.parity_frames))
    if manifest.gate is not None:
        gate = manifest.gate
        rows.append(("empty-frame gate", f"off unless asked for; {gate.promise}"))
        figures = f"{gate.parity_frames_skipped}, of these with cells {gate.parity_frames_with_cells_skipped}"
        rows.append(("parity frames skipped", figures))
    rows += [("engine", _engine(engine)) for engine in manifest.engines]
    rows += [("file", f"{name}, {entry.bytes:,} bytes, all hashes match") for name, entry in manifest.files.items()]
    for key, value in rows:
        print(f"{key:23}{value}")
    return 0


def _engine(engine: EngineEntry) -> str:
    """An engine of the bundle in one line."""
    convolutions = ", ".join(f"{n} {kind}" for kind, n in engine.layer_types.get("CONVOLUTION", {}).items())
    return (
        f"{engine.file}: {engine.flavour} {engine.version}, compute capability {engine.compute_capability}"
        f"{f' of {engine.gpu}' if engine.gpu else ''}, "
        f"{engine.precision}, batches of {engine.min_batch} to {engine.max_batch}, convolutions {convolutions}; "
        f"{'parity measured' if engine.verified else 'not verified'}: {engine.verification}"
    )


COMMAND = Command("show what a bundle says about itself", _add_arguments, _run, loads=("breastseg_deploy.bundle",))
