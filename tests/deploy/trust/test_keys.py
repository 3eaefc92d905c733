"""Key files: what signs and checks bundles, and the words for what does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from signed import KINDS, pair

from breastseg_deploy.errors import ArgumentError
from breastseg_deploy.trust.keys import load_private_key, load_public_key, others_may_read


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_checks_what_its_other_half_signed(tmp_path: Path, kind: str) -> None:
    keys = pair(tmp_path, kind)
    signature = load_private_key(keys.private).sign(b"content")
    public = load_public_key(keys.public)
    assert public.has_signed(signature, b"content")
    assert not public.has_signed(signature, b"another content")
    assert not public.has_signed(b"", b"content")


@pytest.mark.parametrize("kind", KINDS)
def test_an_encrypted_key_opens_with_its_passphrase_alone(tmp_path: Path, kind: str) -> None:
    keys = pair(tmp_path, kind, passphrase=b"open sesame")
    assert load_private_key(keys.private, b"open sesame").public_key.pem == keys.public.read_bytes()
    with pytest.raises(ArgumentError, match="is encrypted and no passphrase came with it; set BREASTSEG_KEY_PASSPHR"):
        load_private_key(keys.private)
    with pytest.raises(ArgumentError, match="see whether the passphrase in BREASTSEG_KEY_PASSPHRASE is") as caught:
        load_private_key(keys.private, b"guessed")
    assert "guessed" not in str(caught.value)


def test_a_passphrase_that_a_key_does_not_need_is_not_used(tmp_path: Path) -> None:
    keys = pair(tmp_path)
    assert load_private_key(keys.private, b"set for another key").public_key.pem == keys.public.read_bytes()


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP256K1()])
def test_another_curve_is_refused(tmp_path: Path, curve: ec.EllipticCurve) -> None:
    _refused(tmp_path, ec.generate_private_key(curve))


def test_rsa_is_refused(tmp_path: Path) -> None:
    _refused(tmp_path, rsa.generate_private_key(65537, 2048))


def _refused(place: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    (place / "private").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(ArgumentError, match=r"is a key of another kind .*; give an Ed25519 or a P-256 key"):
        load_private_key(place / "private")
    with pytest.raises(ArgumentError, match=r"is a key of another kind .*; give an Ed25519 or a P-256 key"):
        load_public_key(public)


def test_the_private_key_in_the_place_of_the_public_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="is a private key, which only the signer may hold"):
        load_public_key(pair(tmp_path).private)


def test_the_public_key_in_the_place_of_the_private_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="cannot be opened as a private key"):
        load_private_key(pair(tmp_path).public)


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n"])
def test_what_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(ArgumentError, match="is no public key"):
        load_public_key(tmp_path / "key")


@pytest.mark.parametrize("place", ["missing", ".", "nul\0byte"])
def test_a_key_that_cannot_be_read_is_refused(tmp_path: Path, place: str) -> None:
    for load in (load_public_key, load_private_key):
        with pytest.raises(ArgumentError, match="cannot read the key"):
            load(tmp_path / place)


def test_a_key_that_others_may_read_is_noticed(tmp_path: Path) -> None:
    keys = pair(tmp_path)
    assert not others_may_read(keys.private)
    keys.private.chmod(0o640)
    assert others_may_read(keys.private)
