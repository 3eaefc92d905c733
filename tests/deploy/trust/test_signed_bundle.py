"""A signed bundle: what opens with the signer's public key, and every way in which one does not."""

from __future__ import annotations

import base64
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from signed import KINDS, Pair, edit_signature, pair, sign_statement
from surgery import edit_manifest, put_sealed

from breastseg_deploy.bundle import MANIFEST, MODEL, REPORT, Bundle
from breastseg_deploy.errors import ArgumentError, BreastsegError, BundleError, OutputError
from breastseg_deploy.segmenter import Segmenter
from breastseg_deploy.signing import sign_bundle
from breastseg_deploy.trust.statement import SIGNATURE


@pytest.fixture
def keys(tmp_path: Path) -> Pair:
    return pair(tmp_path)


@pytest.fixture
def signed(bundle_copy: Path, keys: Pair) -> Path:
    sign_bundle(bundle_copy, keys.key)
    return bundle_copy


def refusal(bundle: Path, key: Path | bytes, kind: type[BreastsegError] = BundleError) -> str:
    with pytest.raises(kind) as caught:
        Bundle.open(bundle, key)
    assert "\n" not in str(caught.value)
    assert type(caught.value).exit_code == 1
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_signed_bundle_opens_with_the_signers_public_key(bundle_copy: Path, tmp_path: Path, kind: str) -> None:
    keys = pair(tmp_path, kind)
    signer = sign_bundle(bundle_copy, keys.key)
    assert Bundle.open(bundle_copy, keys.public).signed_by == signer
    assert Bundle.open(bundle_copy, str(keys.public)).signed_by == signer
    assert Bundle.open(bundle_copy, keys.public.read_bytes()).signed_by == signer


def test_signing_leaves_every_other_file_as_it_was(demo_bundle: Path, signed: Path) -> None:
    for path in demo_bundle.rglob("*"):
        if path.is_file():
            assert (signed / path.relative_to(demo_bundle)).read_bytes() == path.read_bytes()


def test_the_signature_covers_the_manifest_and_every_file_and_not_itself(signed: Path) -> None:
    raw = json.loads((signed / SIGNATURE).read_bytes())
    said = json.loads(base64.b64decode(raw["dsseEnvelope"]["payload"]))
    covered = [one["name"] for one in said["predicate"]["resources"]]
    files = {path.relative_to(signed).as_posix() for path in signed.rglob("*") if path.is_file()}
    assert set(covered) == files - {SIGNATURE}
    assert MANIFEST in covered
    assert len(covered) == len(set(covered))


def test_a_signed_bundle_still_opens_without_a_key(signed: Path) -> None:
    assert Bundle.open(signed).signed_by is None


def test_a_renamed_bundle_keeps_its_signature(signed: Path, keys: Pair) -> None:
    moved = signed.rename(signed.with_name("renamed"))
    assert Bundle.open(moved, keys.public).signed_by is not None


def test_a_segmenter_opens_with_the_key_and_says_what_the_signature_covers(
    signed: Path, keys: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.INFO, "breastseg_deploy"),
        Segmenter.open(signed, "onnxruntime", public_key=keys.public, require_signature=True) as segment,
    ):
        assert segment.bundle.signed_by == keys.key.public_key.sha256
    (said,) = [record for record in caplog.records if "signed by the key" in record.getMessage()]
    assert said.levelno == logging.INFO
    assert "engines that this machine builds itself lie outside of it" in said.getMessage()


def test_a_signature_that_nobody_checks_is_a_warning_and_no_refusal(
    signed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "breastseg_deploy"), Segmenter.open(signed, "onnxruntime"):
        pass
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == f"{signed}: signed, but by whom was not checked: no public key was given"


def test_an_unsigned_bundle_without_a_key_is_not_talked_about(
    demo_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "breastseg_deploy"), Segmenter.open(demo_bundle, "onnxruntime"):
        pass
    assert "signed" not in caplog.text


def test_a_stripped_signature_is_refused(signed: Path, keys: Pair) -> None:
    (signed / SIGNATURE).unlink()
    assert refusal(signed, keys.public) == (
        f"{signed} holds no model.sig, and with a public key only a signed bundle opens; "
        "get the signed bundle, or sign it with breastseg sign"
    )


def test_a_required_signature_without_a_key_is_refused_and_not_skipped(signed: Path) -> None:
    with pytest.raises(ArgumentError, match=r"a signature of .* is required, and no public key was given"):
        Segmenter.open(signed, require_signature=True)


@pytest.mark.parametrize("kind", KINDS)
def test_another_key_is_refused_and_both_are_named(signed: Path, keys: Pair, tmp_path: Path, kind: str) -> None:
    other = pair(tmp_path, kind, "other")
    said = refusal(signed, other.public)
    assert "was signed by another key" in said
    assert keys.key.public_key.sha256[:16] in said
    assert other.key.public_key.sha256[:16] in said


def test_a_signature_that_claims_our_key_and_is_anothers_is_refused(signed: Path, keys: Pair, tmp_path: Path) -> None:
    other = pair(tmp_path, name="other")
    sign_bundle(signed, other.key, force=True)
    ours = keys.key.public_key.sha256
    edit_signature(signed, lambda raw: raw["verificationMaterial"]["publicKey"].update(hint=ours))
    assert "was altered: its signature does not fit" in refusal(signed, keys.public)


def test_a_signature_without_a_hint_is_checked_all_the_same(signed: Path, keys: Pair, tmp_path: Path) -> None:
    edit_signature(signed, lambda raw: raw["verificationMaterial"].pop("publicKey"))
    assert Bundle.open(signed, keys.public).signed_by == keys.key.public_key.sha256
    assert "does not fit" in refusal(signed, pair(tmp_path, name="other").public)


ALTERED: dict[str, Callable[[Path], object]] = {
    "a file": lambda bundle: (bundle / MODEL).write_bytes((bundle / MODEL).read_bytes() + b" "),
    "a file and its entry in the manifest": lambda bundle: put_sealed(bundle, REPORT, b"another report"),
    "the manifest alone": lambda bundle: edit_manifest(bundle, lambda raw: raw.update(threshold=0.1)),
    "a byte of white space in the manifest": lambda bundle: (bundle / MANIFEST).write_bytes(
        (bundle / MANIFEST).read_bytes() + b"\n"
    ),
}


@pytest.mark.parametrize("what", ALTERED)
def test_what_was_altered_after_signing_is_refused(signed: Path, keys: Pair, what: str) -> None:
    ALTERED[what](signed)
    said = refusal(signed, keys.public)
    assert "copy the bundle again" in said


def test_an_altered_manifest_is_refused_before_it_is_parsed(signed: Path, keys: Pair) -> None:
    (signed / MANIFEST).write_bytes(b"{ this is no JSON")
    assert refusal(signed, keys.public) == (
        f"{signed / MANIFEST} is not what was signed: its SHA-256 is another one; copy the bundle again"
    )


@pytest.mark.parametrize("name", ["extra.txt", "goldens/extra.npz", ".hidden", "model.sig.old"])
def test_a_file_that_was_not_signed_is_refused(signed: Path, keys: Pair, name: str) -> None:
    (signed / name).write_bytes(b"")
    assert f"holds {name}, which was not signed" in refusal(signed, keys.public)


def test_a_missing_file_is_refused(signed: Path, keys: Pair) -> None:
    (signed / REPORT).unlink()
    assert f"holds no {REPORT}, which was signed" in refusal(signed, keys.public)


@pytest.mark.parametrize("name", [REPORT, MANIFEST])
def test_a_link_in_the_place_of_a_file_is_refused_whatever_it_leads_to(
    signed: Path, keys: Pair, tmp_path: Path, name: str
) -> None:
    shutil.copy(signed / name, tmp_path / "same")
    (signed / name).unlink()
    (signed / name).symlink_to(tmp_path / "same")
    assert "is a link or no regular file" in refusal(signed, keys.public)


def test_a_folder_behind_a_link_is_refused(signed: Path, keys: Pair, tmp_path: Path) -> None:
    (signed / "goldens").rename(tmp_path / "elsewhere")
    (signed / "goldens").symlink_to(tmp_path / "elsewhere")
    assert "is a link or no regular file" in refusal(signed, keys.public)


def test_a_signature_behind_a_link_is_refused(signed: Path, keys: Pair, tmp_path: Path) -> None:
    (signed / SIGNATURE).rename(tmp_path / SIGNATURE)
    (signed / SIGNATURE).symlink_to(tmp_path / SIGNATURE)
    assert "must be a file of the bundle itself" in refusal(signed, keys.public)


def _payload(raw: dict[str, Any]) -> None:
    said = base64.b64decode(raw["dsseEnvelope"]["payload"]).replace(b'"name"', b'"nAme"', 1)
    raw["dsseEnvelope"]["payload"] = base64.b64encode(said).decode()


def _signature(raw: dict[str, Any]) -> None:
    content = bytearray(base64.b64decode(raw["dsseEnvelope"]["signatures"][0]["sig"]))
    content[-1] ^= 1
    raw["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(content).decode()


TAMPERED: dict[str, Callable[[dict[str, Any]], object]] = {
    "another statement": _payload,
    "another signature": _signature,
    "an empty signature": lambda raw: raw["dsseEnvelope"]["signatures"][0].update(sig=""),
    "no signature": lambda raw: raw["dsseEnvelope"].update(signatures=[]),
    "a second signature": lambda raw: raw["dsseEnvelope"]["signatures"].append({"sig": "", "keyid": ""}),
    "no base64": lambda raw: raw["dsseEnvelope"].update(payload="*"),
    "another payload type": lambda raw: raw["dsseEnvelope"].update(payloadType="text/plain"),
    "another media type": lambda raw: raw.update(mediaType="application/json"),
    "no envelope": lambda raw: raw.pop("dsseEnvelope"),
    "words for the key": lambda raw: raw.update(verificationMaterial="none"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_a_tampered_envelope_is_refused(signed: Path, keys: Pair, what: str) -> None:
    edit_signature(signed, TAMPERED[what])
    assert SIGNATURE in refusal(signed, keys.public)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"mediaType": 1}'])
def test_a_signature_file_that_is_none_is_refused(signed: Path, keys: Pair, content: bytes) -> None:
    (signed / SIGNATURE).write_bytes(content)
    assert "model.sig holds" in refusal(signed, keys.public)


CARELESS: dict[str, Callable[[dict[str, Any]], object]] = {
    "paths to ignore": lambda said: (
        said["predicate"]["serialization"].update(ignore_paths=[SIGNATURE, REPORT]),
        said["predicate"]["resources"].pop(),
    ),
    "another hash": lambda said: said["predicate"]["serialization"].update(hash_type="blake2"),
    "shards": lambda said: said["predicate"]["serialization"].update(method="shards"),
    "another root": lambda said: said["subject"][0]["digest"].update(sha256="0" * 64),
    "a file twice": lambda said: said["predicate"]["resources"].append(said["predicate"]["resources"][0]),
    "a hash that is none": lambda said: said["predicate"]["resources"][0].update(digest="00"),
    "another predicate": lambda said: said.update(predicateType="https://slsa.dev/provenance/v1"),
    "no files": lambda said: said["predicate"].pop("resources"),
}


@pytest.mark.parametrize("what", CARELESS)
def test_a_statement_of_another_kind_is_refused_though_its_signature_is_right(
    signed: Path, keys: Pair, what: str
) -> None:
    sign_statement(signed, keys.key, CARELESS[what])
    assert "sign the bundle again" in refusal(signed, keys.public)


def test_signing_refuses_a_file_that_the_manifest_does_not_list(bundle_copy: Path, keys: Pair) -> None:
    (bundle_copy / "notes.txt").write_text("mine")
    with pytest.raises(
        BundleError, match=r"holds notes\.txt, which its manifest does not list; remove it and sign again"
    ):
        sign_bundle(bundle_copy, keys.key)
    assert not (bundle_copy / SIGNATURE).exists()


def test_signing_refuses_an_altered_bundle(bundle_copy: Path, keys: Pair) -> None:
    (bundle_copy / REPORT).write_text("another")
    with pytest.raises(BundleError, match="its manifest says"):
        sign_bundle(bundle_copy, keys.key)
    assert not (bundle_copy / SIGNATURE).exists()


def test_a_signature_is_replaced_only_by_force(signed: Path, keys: Pair, tmp_path: Path) -> None:
    other, before = pair(tmp_path, name="other"), (signed / SIGNATURE).read_bytes()
    with pytest.raises(OutputError, match="is signed already; pass --force to replace that signature"):
        sign_bundle(signed, other.key)
    assert (signed / SIGNATURE).read_bytes() == before
    sign_bundle(signed, other.key, force=True)
    assert Bundle.open(signed, other.public).signed_by == other.key.public_key.sha256


def test_what_is_read_later_is_held_to_what_was_signed(signed: Path, keys: Pair) -> None:
    """No file is used that changed after the check: its bytes are hashed as they are handed out."""
    bundle = Bundle.open(signed, keys.public)
    (signed / MODEL).write_bytes(b"another model")
    with pytest.raises(BundleError, match="its manifest says"):
        bundle.read(MODEL)
