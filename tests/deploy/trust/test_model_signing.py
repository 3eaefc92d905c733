"""The public tool `model_signing` reads our signatures and we read its own, where it is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from signed import Pair, pair

from breastseg_deploy.bundle import MODEL, Bundle
from breastseg_deploy.signing import sign_bundle
from breastseg_deploy.trust.statement import SIGNATURE

model_signing: Any = pytest.importorskip("model_signing", reason="the public tool model_signing is not installed")


@pytest.fixture
def keys(tmp_path: Path) -> Pair:
    return pair(tmp_path, "P-256")


def verify_by_the_tool(bundle: Path, key: Path) -> None:
    model_signing.verifying.Config().use_elliptic_key_verifier(public_key=key).verify(bundle, bundle / SIGNATURE)


def test_the_tool_accepts_our_signature(bundle_copy: Path, keys: Pair) -> None:
    sign_bundle(bundle_copy, keys.key)
    verify_by_the_tool(bundle_copy, keys.public)


def test_the_tool_refuses_a_bundle_altered_after_our_signature(bundle_copy: Path, keys: Pair) -> None:
    sign_bundle(bundle_copy, keys.key)
    (bundle_copy / MODEL).write_bytes(b"another model")
    with pytest.raises(ValueError, match=MODEL):
        verify_by_the_tool(bundle_copy, keys.public)


def test_we_accept_the_tools_signature(bundle_copy: Path, keys: Pair) -> None:
    signer = model_signing.signing.Config().use_elliptic_key_signer(private_key=keys.private)
    signer.sign(bundle_copy, bundle_copy / SIGNATURE)
    assert Bundle.open(bundle_copy, keys.public).signed_by == keys.key.public_key.sha256


def test_the_tool_takes_no_ed25519_key_so_that_kind_is_ours_alone(bundle_copy: Path, tmp_path: Path) -> None:
    keys = pair(tmp_path, "Ed25519", "other")
    sign_bundle(bundle_copy, keys.key)
    with pytest.raises(AttributeError):
        verify_by_the_tool(bundle_copy, keys.public)
