"""A bundle on disk: a folder whose every file stands in its manifest with size and SHA-256."""

from __future__ import annotations

import hashlib
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.artefacts import check_details
from breastseg_deploy.contract import IMAGENET_MEAN, IMAGENET_STD
from breastseg_deploy.errors import ArgumentError, BundleError
from breastseg_deploy.manifest import FileEntry, Manifest, parse_manifest
from breastseg_deploy.preprocess.gabor import bank_sha256
from breastseg_deploy.trust.folder import check_signature
from breastseg_deploy.trust.keys import PublicKeyPem
from breastseg_deploy.trust.statement import SIGNATURE

MANIFEST = "manifest.json"
PORTABLE, FP16, BF16, INT8, GATE, ENGINE, SLIDE = "portable", "fp16", "bf16", "int8", "gate", "engine", "slide"
"""Roles of artefacts (`manifest.Artefact`)."""
GATE_BF16, GATE_INT8 = "gate-bf16", "gate-int8"
"""Roles of the empty-frame gate in the network of `BF16` and of `INT8`, which is cut in two when it is opened."""

MODEL = "model.onnx"
NETWORK_FP16 = "network.fp16.onnx"
TENSOR = "tensor"
"""Input (N, 4, H, W) of every network, and the name of that place inside `model.onnx`, where its preprocessing ends."""
GATE_ENCODER = "gate/encoder.onnx"
"""`TENSOR` to the empty-frame gate's score (N,) and the features that the decoder reads; names in `gate`."""
GATE_DECODER = "gate/decoder.onnx"
"""These features to the probability (N, 1, H, W)."""
INT8_NETWORK, INT8_WEIGHTS = "int8/network.xml", "int8/network.bin"
"""`TENSOR` to probability (1, 1, H, W), partly in 8-bit integers, as OpenVINO's intermediate representation."""
SLIDE_NETWORK = "slide/network.onnx"
"""`TENSOR` of one tile, both sides any multiple of 32, to probability (1, 1, H, W); its pools are local windows."""
SLIDE_GOLDEN = "slide/golden.npz"
"""A tile with the answer of PyTorch with the same pools."""
REPORT = "report.html"
SBOM = "sbom.cdx.json"
"""What built the bundle and what serves it, as a CycloneDX list of components."""
GOLDENS = "goldens"
ENGINES = "engines"

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Golden:
    """One frame with the answer of the float32 reference, for the self-test.

    Attributes:
        name: file name inside the bundle.
        frame: (H, W, 3) uint8 RGB.
        probability: (H, W) float32.
        mask: (H, W) uint8, 0 or 1.
    """

    name: str
    frame: NDArray[np.uint8]
    probability: NDArray[np.float32]
    mask: NDArray[np.uint8]


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its folder and its manifest, all files checked.

    Attributes:
        path: its folder.
        manifest: what it says about itself.
        signed_by: SHA-256 of the PEM of the public key that it was checked with when it was opened; None where it was
            opened without one.
    """

    path: Path
    manifest: Manifest
    signed_by: str | None = None

    @classmethod
    def open(
        cls, path: str | Path, public_key: PublicKeyPem | None = None, *, require_signature: bool = False
    ) -> Bundle:
        """Open a bundle and check every file of its manifest.

        With a public key the signature is checked first, over the manifest's bytes and the list of the files; nothing
        of the bundle is parsed before that but the signature's own envelope.

        Args:
            path: a folder made by breastseg-export.
            public_key: whose signature the bundle must hold.
            require_signature: refuse to open without a public key, for programs that take theirs from a configuration.

        Raises:
            ArgumentError: a key that is none, or none where a signature is required.
            BundleError: missing folder or file, another size or hash, another schema, a Gabor bank that this
                version would compute differently, or a normalisation that it does not know; with a public key also
                another signature, none, or other files than were signed.
            MachineError: a public key, and `cryptography` is not installed.
        """
        folder = Path(path)
        if require_signature and public_key is None:
            raise ArgumentError(f"a signature of {folder} is required, and no public key was given to check it with")
        if not _is_folder(folder):
            raise BundleError(f"no bundle at {folder}: expected a folder made by breastseg-export")
        signed = None if public_key is None else check_signature(folder, public_key)
        content = _read_manifest(folder / MANIFEST)
        own = {MANIFEST: hashlib.sha256(content).hexdigest()}
        if signed is not None:
            signed.check(folder, own)
        manifest = parse_manifest(_text(content, folder / MANIFEST), str(folder / MANIFEST))
        if signed is not None:
            signed.check_all(folder, own | {name: entry.sha256 for name, entry in manifest.files.items()})
        bundle = cls(folder, manifest, None if signed is None else signed.key)
        for name, entry in manifest.files.items():
            _check(folder / name, file_entry(folder / name), entry)
        check_details(manifest)
        bundle._check_preprocessing()
        return bundle

    @property
    def is_signed(self) -> bool:
        """Whether a signature lies in it; see `signed_by` for whether it was checked."""
        return os.path.lexists(self.path / SIGNATURE)

    @property
    def trust(self) -> str:
        """What is known of who made it, in a sentence."""
        if self.signed_by is not None:
            return (
                f"signed by the key {self.signed_by}, {len(self.manifest.files) + 1} files; engines that this machine "
                "builds itself lie outside of it, under this machine's own verdicts"
            )
        if self.is_signed:
            return "signed, but by whom was not checked: no public key was given"
        return "not signed"

    def sha256_of(self, role: str) -> str:
        """One hash over all files of the artefact of that role.

        Raises:
            BundleError: there is none.
        """
        artefact = self.manifest.artefact(role)
        if artefact is None:
            raise BundleError(f"{self.path} {self.holds_no(role)}; export it again with what you need")
        hashes = [self.manifest.files[name].sha256 for name in artefact.files]
        return hashes[0] if len(hashes) == 1 else hashlib.sha256(" ".join(hashes).encode()).hexdigest()

    def holds_no(self, role: str) -> str:
        """Why it has no artefact of that role, as the rest of a sentence."""
        return f"holds no {role} artefact (it was exported with --precision {self.manifest.precision})"

    def read(self, name: str) -> bytes:
        """The content of one file, hashed as it is handed out: what is used is what was checked.

        Raises:
            BundleError: not in the manifest, or changed since the bundle was opened.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            raise BundleError(
                f"{self.path} holds no {name}: it was exported with --precision {self.manifest.precision}; export it "
                "again with what you need"
            )
        try:
            content = (self.path / name).read_bytes()
        except OSError as err:
            raise _unreadable(self.path / name, err) from err
        _check(self.path / name, FileEntry(bytes=len(content), sha256=hashlib.sha256(content).hexdigest()), entry)
        return content

    def goldens(self) -> list[Golden]:
        """The golden frames, in the manifest's order.

        Raises:
            BundleError: a golden cannot be read, has another size than the frame contract, or a mask that is not its
                own probability at the manifest's threshold.
        """
        return [self._golden(name, self.manifest.frame.size_px) for name in self.manifest.goldens]

    def slide_golden(self, side_px: int) -> Golden:
        """The golden tile of the slide artefact, `side_px` on both sides.

        Raises:
            BundleError: as `goldens`.
        """
        return self._golden(SLIDE_GOLDEN, (side_px, side_px))

    def _golden(self, name: str, size: tuple[int, int]) -> Golden:
        content = self.read(name)
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                golden = Golden(name, arrays["frame"], arrays["probability"], arrays["mask"])
        except Exception as err:  # NumPy, zipfile and zlib raise a dozen unrelated types on a damaged archive
            raise BundleError(f"{self.path / name} is no golden frame ({err}); export the bundle again") from err
        if golden.frame.shape != (*size, 3) or golden.probability.shape != size or golden.mask.shape != size:
            raise BundleError(
                f"{self.path / name} is not of the size {size} that it must have; export the bundle again"
            )
        dtypes = [array.dtype.name for array in (golden.frame, golden.probability, golden.mask)]
        if dtypes != ["uint8", "float32", "uint8"] or not np.isfinite(golden.probability).all():
            raise BundleError(f"{self.path / name} must hold uint8, finite float32 and uint8; export the bundle again")
        if not np.array_equal(golden.mask, golden.probability >= self.manifest.threshold):
            raise BundleError(
                f"{self.path / name} holds a mask that is not its probability at the threshold "
                f"{self.manifest.threshold} of the manifest: one of them was altered; export the bundle again"
            )
        return golden

    def _check_preprocessing(self) -> None:
        """Refuse a manifest whose preprocessing is not the one that this version computes."""
        gabor, normalisation = self.manifest.gabor, self.manifest.normalisation
        try:
            bank = bank_sha256(gabor.parameters())
        except ArgumentError as err:
            raise BundleError(f"{self.path / MANIFEST}: {err}; copy the bundle again or export it again") from err
        if bank != gabor.sha256:
            raise BundleError(
                f"{self.path} was exported with another Gabor bank than this version computes from its parameters; "
                "use the version named under built_with, or export it again"
            )
        if (normalisation.mean, normalisation.std) != (IMAGENET_MEAN, IMAGENET_STD):
            raise BundleError(
                f"{self.path} asks for the normalisation {normalisation.mean}, {normalisation.std}, this version knows "
                f"{IMAGENET_MEAN}, {IMAGENET_STD}; use the version named under built_with, or export it again"
            )


def golden_bytes(golden: Golden) -> bytes:
    """A golden as the file that `Bundle.goldens` reads: a compressed .npz without pickles."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, frame=golden.frame, probability=golden.probability, mask=golden.mask)
    return buffer.getvalue()


def file_entry(path: Path) -> FileEntry:
    """Size and hash of a file of a bundle.

    Raises:
        BundleError: it cannot be read, or is no regular file.
    """
    digest, size = hashlib.sha256(), 0
    try:
        if path.exists() and not path.is_file():  # a pipe or a device could be read for ever
            raise BundleError(f"{path} is no regular file; copy the bundle again")
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
    except OSError as err:
        raise _unreadable(path, err) from err
    return FileEntry(bytes=size, sha256=digest.hexdigest())


def _check(path: Path, found: FileEntry, expected: FileEntry) -> None:
    if found.bytes != expected.bytes:
        raise BundleError(f"{path} has {found.bytes} bytes, its manifest says {expected.bytes}; copy the bundle again")
    if found.sha256 != expected.sha256:
        raise BundleError(f"{path} was altered: its SHA-256 is not the one in the manifest; copy the bundle again")


def is_manifest(path: Path) -> bool:
    """Whether a file is a bundle's manifest, of this version of its schema or any other."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and {"schema_version", "encoder", "files"} <= found.keys()


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # no permission to look, or a name that is too long
        return False


def _read_manifest(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as err:
        raise BundleError(f"cannot read {path} ({err}); expected a folder made by breastseg-export") from err


def _text(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as err:
        raise BundleError(f"cannot read {path} ({err}); expected a folder made by breastseg-export") from err


def _unreadable(path: Path, err: OSError) -> BundleError:
    return BundleError(f"cannot read {path} ({(err.strerror or str(err)).lower()}); copy the bundle again")
