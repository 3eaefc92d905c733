"""A folder held to its signature: exactly the files that were signed, no other one, and no links."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from breastseg_deploy.errors import BundleError
from breastseg_deploy.trust.keys import PublicKey, PublicKeyPem, load_public_key
from breastseg_deploy.trust.statement import SIGNATURE, parse_envelope, signed_bytes, signed_files

_LARGEST_BYTES = 16 << 20
"""A signature takes some 200 bytes for each file; nobody reads a gigabyte for one."""


@dataclass(frozen=True)
class Signed:
    """What a signature says once it was checked.

    Attributes:
        files: SHA-256 by path inside the bundle.
        key: `PublicKey.sha256` of the key that signed it.
    """

    files: Mapping[str, str]
    key: str

    def check(self, folder: Path, files: Mapping[str, str]) -> None:
        """Hold files to what was signed.

        Args:
            folder: the bundle, for the message.
            files: SHA-256 by path inside the bundle, of some or all of its files.

        Raises:
            BundleError: one of them is another than was signed.
        """
        for name, sha256 in files.items():
            if self.files.get(name) != sha256:
                raise BundleError(
                    f"{folder / name} is not what was signed: its SHA-256 is another one; copy the bundle again"
                )

    def check_all(self, folder: Path, files: Mapping[str, str]) -> None:
        """As `check`, and refuse a file that was signed and is not among these: nobody would hash it.

        Raises:
            BundleError: one of them is another than was signed, or one that was signed is missing.
        """
        self.check(folder, files)
        if unlisted := sorted(self.files.keys() - files.keys()):
            raise BundleError(
                f"{folder} was signed with {unlisted[0]}, which its manifest does not list; sign it again"
            )


def check_signature(folder: Path, public_key: PublicKeyPem) -> Signed:
    """Check a bundle's signature, and that its folder holds the files it names and no others.

    The files' contents are not read here: who reads one holds its bytes to `Signed.files`.

    Raises:
        ArgumentError: the public key is none.
        BundleError: no signature, another key's, one that does not fit, or other files than it names.
        MachineError: `cryptography` is not installed.
    """
    key = load_public_key(public_key)
    content = read_signature(folder)
    if content is None:
        raise BundleError(
            f"{folder} holds no {SIGNATURE}, and with a public key only a signed bundle opens; "
            "get the signed bundle, or sign it with breastseg sign"
        )
    files = _verified(folder, content, key)
    _check_files(folder, files)
    return Signed(files, key.sha256)


def read_signature(folder: Path) -> bytes | None:
    """The content of a bundle's signature file; None where there is none.

    Raises:
        BundleError: it is a link, no file, too large, or cannot be read.
    """
    place = folder / SIGNATURE
    if not os.path.lexists(place):
        return None
    if place.is_symlink() or not place.is_file():
        raise BundleError(f"{place} must be a file of the bundle itself, got a link or a folder; copy the bundle again")
    try:
        with place.open("rb") as file:
            content = file.read(_LARGEST_BYTES + 1)
    except OSError as err:
        raise BundleError(f"cannot read {place} ({err}); copy the bundle again") from err
    if len(content) > _LARGEST_BYTES:
        raise BundleError(f"{place} is larger than any signature ({_LARGEST_BYTES} bytes); sign the bundle again")
    return content


def _verified(folder: Path, content: bytes, key: PublicKey) -> dict[str, str]:
    """The signed files; the payload is looked into only after its signature was checked."""
    envelope = parse_envelope(content)
    if not key.has_signed(envelope.signature, signed_bytes(envelope.payload)):
        if envelope.key is not None and envelope.key != key.sha256:
            raise BundleError(
                f"{folder} was signed by another key (SHA-256 {envelope.key[:16]}...) than the one given "
                f"({key.sha256[:16]}...); get the bundle from whoever holds yours, or ask for the right public key"
            )
        raise BundleError(f"{folder / SIGNATURE} was altered: its signature does not fit; copy the bundle again")
    return signed_files(envelope.payload)


def _check_files(folder: Path, files: Mapping[str, str]) -> None:
    found = list_files(folder)
    if unsigned := sorted(found - files.keys()):
        raise BundleError(f"{folder} holds {unsigned[0]}, which was not signed; remove it, or copy the bundle again")
    if missing := sorted(files.keys() - found):
        raise BundleError(f"{folder} holds no {missing[0]}, which was signed; copy the bundle again")


def list_files(folder: Path) -> set[str]:
    """Every file of a bundle but its signature, by its path inside it, with forward slashes.

    Raises:
        BundleError: a link or anything else that is neither file nor folder; a folder that cannot be read.
    """
    found: set[str] = set()
    try:
        for entry in _entries(folder):
            path = Path(entry.path)
            if not entry.is_file(follow_symlinks=False):
                raise BundleError(
                    f"{path} is a link or no regular file, and a signature covers files alone; "
                    "put the file itself in its place"
                )
            found.add(path.relative_to(folder).as_posix())
    except OSError as err:
        raise BundleError(f"cannot look into {folder} ({err}); copy the bundle again") from err
    return found - {SIGNATURE}


def _entries(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    """All that lies in a folder and in those below it, but for real folders themselves; links are not followed."""
    with os.scandir(str(folder)) as entries:
        inside = list(entries)
    for entry in inside:
        if entry.is_dir(follow_symlinks=False):
            yield from _entries(entry.path)
        else:
            yield entry
