"""Keys for the tests, and signature files altered by hand."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from breastseg_deploy.trust.keys import PrivateKey, load_private_key
from breastseg_deploy.trust.statement import SIGNATURE, Envelope, envelope_bytes, signed_bytes

KINDS = ("Ed25519", "P-256")


@dataclass(frozen=True)
class Pair:
    """A private key and its public half, as files."""

    private: Path
    public: Path

    @property
    def key(self) -> PrivateKey:
        return load_private_key(self.private)


def pair(folder: Path, kind: str = "Ed25519", name: str = "key", passphrase: bytes | None = None) -> Pair:
    """A fresh pair of keys in PEM files; the private one is its owner's alone."""
    key = Ed25519PrivateKey.generate() if kind == "Ed25519" else generate_private_key(SECP256R1())
    lock = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    found = Pair(folder / f"{name}.pem", folder / f"{name}.pub")
    found.private.touch(mode=0o600)
    found.private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock))
    found.public.write_bytes(PrivateKey(key).public_key.pem)
    return found


def edit_signature(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Apply `change` to the signature file's JSON; the signature itself is not made anew."""
    raw = json.loads((bundle / SIGNATURE).read_bytes())
    change(raw)
    (bundle / SIGNATURE).write_text(json.dumps(raw))


def sign_statement(bundle: Path, key: PrivateKey, change: Callable[[dict[str, Any]], object]) -> None:
    """Apply `change` to the signed statement, and sign what comes out: what a careless signer could have made."""
    raw = json.loads((bundle / SIGNATURE).read_bytes())
    said = json.loads(base64.b64decode(raw["dsseEnvelope"]["payload"]))
    change(said)
    payload = json.dumps(said).encode()
    envelope = Envelope(payload, key.sign(signed_bytes(payload)), key.public_key.sha256)
    (bundle / SIGNATURE).write_bytes(envelope_bytes(envelope))
