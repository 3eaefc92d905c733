"""Signing a bundle: one file beside its manifest, which says by whose key it stands as it is."""

from __future__ import annotations

from pathlib import Path

from breastseg_deploy.bundle import MANIFEST, Bundle, file_entry
from breastseg_deploy.errors import BundleError, OutputError
from breastseg_deploy.storage import write_whole
from breastseg_deploy.trust.folder import list_files, read_signature
from breastseg_deploy.trust.keys import PrivateKey
from breastseg_deploy.trust.statement import SIGNATURE, Envelope, envelope_bytes, signed_bytes, statement


def sign_bundle(path: str | Path, key: PrivateKey, *, force: bool = False) -> str:
    """Sign a bundle: write its signature over the SHA-256 of the manifest and of every file that it lists.

    Args:
        path: the bundle, which is checked as at every opening.
        key: the signer's.
        force: replace a signature that is there.

    Returns:
        SHA-256 of the public key's PEM, by which the signature names its signer.

    Raises:
        BundleError: the bundle does not open, or holds files that its manifest does not list, or links.
        OutputError: it is signed already and `force` is off, or the signature cannot be written.
    """
    bundle = Bundle.open(path)
    if read_signature(bundle.path) is not None and not force:
        raise OutputError(f"{bundle.path} is signed already; pass --force to replace that signature")
    files = {name: entry.sha256 for name, entry in bundle.manifest.files.items()}
    files[MANIFEST] = file_entry(bundle.path / MANIFEST).sha256
    if unlisted := sorted(list_files(bundle.path) - files.keys()):
        raise BundleError(
            f"{bundle.path} holds {unlisted[0]}, which its manifest does not list; remove it and sign again"
        )
    payload = statement(bundle.path.resolve().name, files)
    content = envelope_bytes(Envelope(payload, key.sign(signed_bytes(payload)), key.public_key.sha256))
    write_whole(bundle.path / SIGNATURE, content)
    # Opened as a scanner will: a bundle that was changed while it was signed is found here and not there.
    Bundle.open(path, key.public_key.pem)
    return key.public_key.sha256
