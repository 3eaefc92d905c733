"""Keys that sign bundles and check them: PEM files of Ed25519 or ECDSA on the curve P-256."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from breastseg_deploy.errors import ArgumentError
from breastseg_deploy.extras import require

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PublicKeyPem: TypeAlias = str | Path | bytes
"""A PEM file, or as bytes its content: a program may hold its key where nobody on its machine can exchange it."""

PASSPHRASE_VARIABLE = "BREASTSEG_KEY_PASSPHRASE"
"""Environment variable that `breastseg sign` takes the passphrase of an encrypted private key from."""

_REMEDY = "give an Ed25519 or a P-256 key in PEM, made as docs/security.md shows"


@dataclass(frozen=True)
class PublicKey:
    """A key that signatures are checked with."""

    key: Ed25519PublicKey | EllipticCurvePublicKey

    @property
    def pem(self) -> bytes:
        """The key as a PEM file holds it (SubjectPublicKeyInfo)."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        return self.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    @property
    def sha256(self) -> str:
        """SHA-256 of `pem` in hexadecimal, as signature files name their signer."""
        return hashlib.sha256(self.pem).hexdigest()

    def has_signed(self, signature: bytes, content: bytes) -> bool:
        """Whether the signature over the content is this key's."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.hashes import SHA256

        try:
            if isinstance(self.key, Ed25519PublicKey):
                self.key.verify(signature, content)
            else:
                self.key.verify(signature, content, ECDSA(SHA256()))
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class PrivateKey:
    """A key that signs."""

    key: Ed25519PrivateKey | EllipticCurvePrivateKey

    @property
    def public_key(self) -> PublicKey:
        """What its signatures are checked with."""
        return PublicKey(self.key.public_key())

    def sign(self, content: bytes) -> bytes:
        """A signature: 64 bytes of Ed25519, or DER of ECDSA over SHA-256."""
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.hashes import SHA256

        if isinstance(self.key, Ed25519PrivateKey):
            return self.key.sign(content)
        return self.key.sign(content, ECDSA(SHA256()))


def load_public_key(pem: PublicKeyPem) -> PublicKey:
    """Read a public key.

    Raises:
        ArgumentError: it cannot be read, is no public key, or of a kind that signs no bundles.
        MachineError: `cryptography` is not installed.
    """
    require("cryptography", "signing")
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    content, place = _content(pem)
    if b"PRIVATE KEY" in content:
        raise ArgumentError(f"{place} is a private key, which only the signer may hold; give its public key here")
    try:
        key = load_pem_public_key(content)
    except Exception as err:  # ValueError, TypeError and two types of the library's own, by what is wrong
        raise ArgumentError(f"{place} is no public key ({type(err).__name__}); {_REMEDY}") from err
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return PublicKey(key)
    if isinstance(key, Ed25519PublicKey):
        return PublicKey(key)
    raise ArgumentError(f"{place} is a key of another kind ({type(key).__name__}); {_REMEDY}")


def load_private_key(path: Path, passphrase: bytes | Callable[[], bytes | None] | None = None) -> PrivateKey:
    """Read a private key, once: it may come through a pipe, which gives it only once.

    Args:
        path: PEM, in PKCS #8 or in OpenSSL's older forms.
        passphrase: of a key that is encrypted, or what gets it, which is called for such a key alone.

    Raises:
        ArgumentError: it cannot be read, is no private key, of a kind that signs no bundles, or the passphrase is
            missing or wrong.
        MachineError: `cryptography` is not installed.
    """
    require("cryptography", "signing")
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    content, place = _content(path)
    encrypted = b"ENCRYPTED" in content  # in the label of PKCS #8, in the header of OpenSSL's older forms
    secret: bytes | None = None
    if encrypted:
        secret = passphrase if passphrase is None or isinstance(passphrase, bytes) else passphrase()
    if encrypted and not secret:
        raise ArgumentError(f"{place} is encrypted and no passphrase came with it; set {PASSPHRASE_VARIABLE}")
    try:
        key = load_pem_private_key(content, secret)
    except Exception as err:  # as above; its text is not repeated, because it may speak of the key's content
        remedy = f"see whether the passphrase in {PASSPHRASE_VARIABLE} is the right one" if encrypted else _REMEDY
        raise ArgumentError(f"{place} cannot be opened as a private key ({type(err).__name__}); {remedy}") from err
    if isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1):
        return PrivateKey(key)
    if isinstance(key, Ed25519PrivateKey):
        return PrivateKey(key)
    raise ArgumentError(f"{place} is a key of another kind ({type(key).__name__}); {_REMEDY}")


def others_may_read(path: Path) -> bool:
    """Whether others than its owner may read or change a file; False where the system has no POSIX modes."""
    return os.name == "posix" and bool(path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))


def _content(pem: PublicKeyPem) -> tuple[bytes, str]:
    """The bytes, and what to call them."""
    if isinstance(pem, bytes):
        return pem, "the key"
    try:
        return Path(pem).read_bytes(), str(pem)
    except (OSError, ValueError) as err:  # ValueError: a NUL in the name
        raise ArgumentError(f"cannot read the key {pem} ({err}); {_REMEDY}") from err
