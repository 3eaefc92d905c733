"""What a package is, and how one is written: from a bundle that reproduces its goldens here, whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from breastseg_deploy.bundle import MANIFEST, MODEL, PORTABLE, Bundle, is_manifest
from breastseg_deploy.errors import BundleError
from breastseg_deploy.manifest import parse_manifest
from breastseg_deploy.segmenter import Segmenter
from breastseg_deploy.storage import (
    check_output_folder,
    check_replaceable,
    folder_written_whole,
    make_folder,
    write_whole,
)

Files = Iterator[tuple[str, bytes]]
"""Names inside the package, and contents."""


@dataclass(frozen=True)
class Package:
    """A form that a bundle can take.

    Attributes:
        consumer: what reads it, for people.
        files: makes its files of an opened bundle.
        manifest: where such a package holds its bundle's manifest.
        names: all that lies in such a package's folder, and what its README lets people build there.
    """

    consumer: str
    files: Callable[[Bundle], Files]
    manifest: str
    names: frozenset[str]

    def foreign(self, folder: Path) -> str | None:
        """See `check_replaceable`."""
        others = sorted({path.name for path in folder.iterdir()} - self.names)
        if others:
            return f"{others[0]}, which is no part of such a package"
        return None if is_manifest(folder / self.manifest) else f"files but no {self.manifest} of a bundle"


def write_package(
    package: Package, bundle_path: Path, output: Path, *, public_key: Path | None = None, force: bool = False
) -> None:
    """Write a bundle's package.

    Raises:
        BundleError: the bundle is damaged, or was not signed by the public key's owner where one is given.
        MachineError: this machine lacks what the package is made of.
        OutputError: the folder cannot be written.
        ParityError: the portable model does not reproduce the bundle's goldens on this machine.
    """
    check_output_folder(output, force=force)
    if force:
        check_replaceable(output, package.foreign)
    with Segmenter.open(bundle_path, "onnxruntime", public_key=public_key) as segment:
        segment.self_test()
        bundle = segment.bundle
    with folder_written_whole(output, force=force) as folder:
        for name, content in package.files(bundle):
            make_folder((folder / name).parent)
            write_whole(folder / name, content)


def portable_model(bundle: Bundle) -> bytes:
    """The bundle's `model.onnx`: uint8 frames to probabilities, preprocessing inside.

    Raises:
        BundleError: it was changed since the bundle was opened, or its inputs and outputs are not those known here.
    """
    artefact = bundle.manifest.artefact(PORTABLE)
    shapes = (
        None if artefact is None else [(one.name, one.axes, one.dtype) for one in artefact.inputs + artefact.outputs]
    )
    expected = [("frames", "NHWC", "uint8"), ("probability", "NCHW", "float32")]
    if shapes != expected:
        raise BundleError(f"{bundle.path} must hold a {MODEL} with {expected}, got {shapes}; export the bundle again")
    return bundle.read(MODEL)


def manifest_bytes(bundle: Bundle) -> bytes:
    """The bundle's `manifest.json`, to the byte.

    Raises:
        BundleError: it was changed since the bundle was opened.
    """
    place = bundle.path / MANIFEST
    try:
        content = place.read_bytes()
    except OSError as err:
        raise BundleError(f"cannot read {place} ({err.strerror}); copy the bundle again") from err
    if parse_manifest(content.decode("utf-8", "replace"), str(place)) != bundle.manifest:
        raise BundleError(f"{place} was changed while it was being packaged; copy the bundle again")
    return content


def golden_arrays(bundle: Bundle) -> Files:
    """The goldens as raw little-endian arrays, row by row, and `goldens.json` with their hashes."""
    entries = []
    for number, golden in enumerate(bundle.goldens(), 1):
        name = f"golden-{number}"
        frame, probability = golden.frame.tobytes(), golden.probability.astype("<f4").tobytes()
        yield f"{name}.frame.u8", frame
        yield f"{name}.probability.f32", probability
        hashes = {"frame_sha256": frame, "probability_sha256": probability}
        entries.append({"name": name} | {key: hashlib.sha256(one).hexdigest() for key, one in hashes.items()})
    yield "goldens.json", json.dumps({"goldens": entries}, indent=1).encode()
