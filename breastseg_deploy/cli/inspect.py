"""`breastseg inspect`: what a bundle or a slide says about itself."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from breastseg_deploy.cli.command import Command, print_json

if TYPE_CHECKING:
    from breastseg_deploy.manifest import Manifest


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", type=Path, metavar="BUNDLE|SLIDE", help="a folder made by breastseg-export, or an image of any size"
    )
    parser.add_argument("--json", action="store_true", help="print it as one JSON object on stdout")


def _run(arguments: argparse.Namespace) -> int:
    """A file is a slide, and so is a folder of DICOM files; any other folder is a bundle."""
    return _inspect_slide(arguments) if _is_slide(arguments.path) else _inspect_bundle(arguments)


def _is_slide(path: Path) -> bool:
    from breastseg_deploy.io.open_reader import dicom_files

    try:
        return path.is_file() or (path.is_dir() and os.access(path, os.R_OK | os.X_OK) and bool(dicom_files(path)))
    except OSError:  # no permission to look, or a name that is too long
        return False


def _inspect_slide(arguments: argparse.Namespace) -> int:
    """Print what its reader knows of a slide; its pixels are not read."""
    from breastseg_deploy.io.open_reader import open_reader
    from breastseg_deploy.progress import Progress

    with Progress(f"opening {arguments.path}"), closing(open_reader(arguments.path)) as reader:
        info = reader.describe()
    if arguments.json:
        print_json({**asdict(info), "files": [str(file) for file in info.files]})
        return 0
    size = "unknown: pass --mpp where one is needed"
    if info.pixel_size_um is not None:
        size = f"{info.pixel_size_um[0]:.6g} um high, {info.pixel_size_um[1]:.6g} um wide"
    rows = [
        ("format", info.format),
        ("size", f"{info.size_px[0]} x {info.size_px[1]} px"),
        ("pixel size", size),
        ("channels", ", ".join(f"{number}: {name}" for number, name in enumerate(info.channels))),
        ("values", f"{info.dtype}, {info.bits} bits in use"),
    ]
    for number, level in enumerate(info.levels):
        rows.append((f"level {number}", f"{level.size_px[0]} x {level.size_px[1]} px, 1 / {level.downsample:g}"))
    rows += [("file", str(file)) for file in info.files]
    rows += [("found out", sentence) for sentence in info.found_out]
    _print_rows(rows)
    return 0


def _inspect_bundle(arguments: argparse.Namespace) -> int:
    """Print the manifest, after every file was checked against it."""
    from breastseg_deploy.bundle import Bundle
    from breastseg_deploy.progress import Progress

    with Progress(f"opening {arguments.path}"):
        bundle = Bundle.open(arguments.path)
    manifest = bundle.manifest
    if arguments.json:
        print_json({**manifest.model_dump(mode="json"), "signed": bundle.is_signed, "signature": bundle.trust})
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
    rows += _cells(manifest)
    rows += [("file", f"{name}, {entry.bytes:,} bytes, all hashes match") for name, entry in manifest.files.items()]
    _print_rows(rows)
    return 0


def _print_rows(rows: Sequence[tuple[str, str]]) -> None:
    for key, value in rows:
        print(f"{key:25}{value}")


def _cells(manifest: Manifest) -> list[tuple[str, str]]:
    """What it says about cells."""
    from breastseg_deploy.cell_choice import NOT_CHOSEN

    choice = manifest.cells
    if choice is None:
        return [("cells", NOT_CHOSEN)]
    rows = [("cells", f"{choice.parameters.method}, chosen on {choice.chosen_on}")]
    rows += [("  figures", choice.figures.in_words), ("  connected components", choice.components.in_words)]
    for name, source in choice.sources.items():
        worst = ", the worst" if name == choice.worst_source else ""
        rows.append((f"  {name}{worst}", source.figures.in_words))
        own = "" if source.own_figures.f1 is None else f" F1 {source.own_figures.f1:.3f}"
        rows.append((f"  {name}, own", f"{source.parameters.method}{own}"))
    return rows


COMMAND = Command(
    "show what a bundle or a slide says about itself", _add_arguments, _run, loads=("breastseg_deploy.bundle",)
)
