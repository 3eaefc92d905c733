"""What is signed and what a signature file holds: an in-toto statement in a DSSE envelope in a Sigstore bundle.

Source: OpenSSF Model Signing 1.0 as model_signing 1.1.1 writes and reads it with an elliptic curve key; DSSE 1.0.0,
protocol.md; in-toto Statement v1; Sigstore bundle 0.3.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from breastseg_deploy.errors import BundleError

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"

SIGNATURE = "model.sig"
"""The signature's file, inside the bundle; it is the one file that a signature does not cover."""

_SHA256_HEX = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Envelope:
    """A signature file, taken apart.

    Attributes:
        payload: the statement's bytes, as they were signed.
        signature: over `signed_bytes(payload)`.
        key: SHA-256 of the public key's PEM (`keys.PublicKey.sha256`), by which the file says who signed it: a hint,
            which nobody may trust. None where it says nothing.
    """

    payload: bytes
    signature: bytes
    key: str | None


def statement(name: str, files: Mapping[str, str]) -> bytes:
    """The statement that these files belong together.

    Args:
        name: of the bundle; informative, no check depends on it.
        files: SHA-256 in hexadecimal of each file, by its path inside the bundle.

    Returns:
        JSON in UTF-8; the same bytes for the same files.
    """
    in_order = sorted(files, key=PurePosixPath)
    said = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": _root(files[name] for name in in_order)}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": [SIGNATURE],
            },
            "resources": [{"name": name, "algorithm": "sha256", "digest": files[name]} for name in in_order],
        },
    }
    return json.dumps(said).encode()


def signed_files(payload: bytes) -> dict[str, str]:
    """SHA-256 by path of each file that a statement covers; call it with a payload whose signature was checked.

    Paths that the statement asks to ignore are not ignored: every file but `SIGNATURE` must be covered.

    Raises:
        BundleError: another kind of statement, or one that contradicts itself.
    """
    try:
        said = json.loads(payload)
        kinds = (said["_type"], said["predicateType"])
        serialization = said["predicate"]["serialization"]
        (subject,) = said["subject"]
        resources = said["predicate"]["resources"]
        entries = [(one["name"], one["algorithm"], one["digest"]) for one in resources]
        root, how = subject["digest"]["sha256"], (serialization["method"], serialization["hash_type"])
    except (ValueError, KeyError, TypeError, RecursionError) as err:
        raise _unknown(f"a statement that cannot be read ({type(err).__name__})") from err
    if kinds != (STATEMENT_TYPE, PREDICATE_TYPE):
        raise _unknown(f"a statement of the kind {kinds}")
    if how != ("files", "sha256") or any(algorithm != "sha256" for _, algorithm, _ in entries):
        raise _unknown(f"hashes of the kind {how}")
    if not all(isinstance(name, str) and _is_sha256(digest) for name, _, digest in entries):
        raise _unknown("a file without a name or a SHA-256")
    files = {name: digest for name, _, digest in entries}
    if len(files) != len(entries) or root != _root(digest for _, _, digest in entries):
        raise _unknown("a statement that contradicts itself")
    return files


def signed_bytes(payload: bytes) -> bytes:
    """What the key signs: DSSE's pre-authentication encoding of the payload and its type."""
    return b" ".join((b"DSSEv1 %d" % len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), b"%d" % len(payload), payload))


def envelope_bytes(envelope: Envelope) -> bytes:
    """The signature file's content."""
    content = {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": envelope.key}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(envelope.payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(envelope.signature).decode(), "keyid": ""}],
        },
    }
    return json.dumps(content).encode()


def parse_envelope(content: bytes) -> Envelope:
    """Take a signature file apart; nothing is verified, and the payload is not looked into.

    Raises:
        BundleError: no signature file of this format, or not exactly one signature.
    """
    try:
        outer = json.loads(content)
        media_type, inner = outer["mediaType"], outer["dsseEnvelope"]
        kind, payload = inner["payloadType"], base64.b64decode(inner["payload"], validate=True)
        (one,) = inner["signatures"]
        signature = base64.b64decode(one["sig"], validate=True)
        key = _hint(outer)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error) as err:
        raise _unknown(f"something else ({type(err).__name__})") from err
    if (media_type, kind) != (MEDIA_TYPE, PAYLOAD_TYPE):
        raise _unknown(f"{media_type!r} around {kind!r}")
    return Envelope(payload, signature, key)


def _hint(outer: dict[str, Any]) -> str | None:
    hint = outer.get("verificationMaterial", {}).get("publicKey", {}).get("hint")
    return hint if _is_sha256(hint) else None


def _is_sha256(text: object) -> bool:
    return isinstance(text, str) and _SHA256_HEX.fullmatch(text) is not None


def _root(digests: Any) -> str:
    """The format's one digest of all files: SHA-256 over theirs, in the statement's order."""
    return hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in digests)).hexdigest()


def _unknown(what: str) -> BundleError:
    return BundleError(
        f"{SIGNATURE} holds {what}, expected one signature over the SHA-256 of every file; sign the bundle again"
    )
