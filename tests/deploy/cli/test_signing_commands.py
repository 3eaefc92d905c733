"""`breastseg sign`, and what the other commands say of a signature."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from signed import Pair, pair

from breastseg_deploy.bundle import MANIFEST, MODEL, Bundle
from breastseg_deploy.cli.main import main
from breastseg_deploy.trust.statement import SIGNATURE

SIGN = "import sys; from breastseg_deploy.cli.main import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture
def keys(tmp_path: Path) -> Pair:
    return pair(tmp_path)


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_sign_writes_the_signature_and_names_the_signer(
    bundle_copy: Path, keys: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("sign", bundle_copy, "--key", keys.private) == 0
    told = capsys.readouterr()
    signer = keys.key.public_key.sha256
    assert told.out == f"signature {bundle_copy / SIGNATURE} by the key {signer}\n"
    assert "warning" not in told.err
    assert Bundle.open(bundle_copy, keys.public).signed_by == signer


def test_sign_with_json_is_one_object(bundle_copy: Path, keys: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("sign", bundle_copy, "--key", keys.private, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "bundle": str(bundle_copy),
        "signature": str(bundle_copy / SIGNATURE),
        "signed_by": keys.key.public_key.sha256,
    }


def test_a_key_that_others_may_read_is_warned_of(
    bundle_copy: Path, keys: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    keys.private.chmod(0o644)
    assert run("sign", bundle_copy, "--key", keys.private) == 0
    assert f"warning: others may read {keys.private}; take that away: chmod 600" in capsys.readouterr().err


def test_the_passphrase_comes_from_the_environment(
    bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = pair(tmp_path, passphrase=b"open sesame")
    monkeypatch.setenv("BREASTSEG_KEY_PASSPHRASE", "open sesame")
    assert run("sign", bundle_copy, "--key", keys.private) == 0
    assert Bundle.open(bundle_copy, keys.public).signed_by is not None


@pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="needs /dev/fd")
@pytest.mark.parametrize("passphrase", [None, b"open sesame"])
def test_the_key_may_come_through_a_pipe(
    bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passphrase: bytes | None
) -> None:
    keys = pair(tmp_path, passphrase=passphrase)
    monkeypatch.setenv("BREASTSEG_KEY_PASSPHRASE", "open sesame")
    reading, writing = os.pipe()
    os.write(writing, keys.private.read_bytes())
    os.close(writing)
    try:
        assert run("sign", bundle_copy, "--key", f"/dev/fd/{reading}") == 0
    finally:
        os.close(reading)
    assert Bundle.open(bundle_copy, keys.public).signed_by is not None


def test_the_passphrase_is_asked_for_on_a_terminal_and_not_shown(bundle_copy: Path, tmp_path: Path) -> None:
    keys = pair(tmp_path, passphrase=b"open sesame")
    command = [sys.executable, "-c", SIGN, "sign", str(bundle_copy), "--key", str(keys.private)]
    environment = {name: value for name, value in os.environ.items() if name != "BREASTSEG_KEY_PASSPHRASE"}
    child, terminal = pty.fork()
    if child == 0:
        os.execve(sys.executable, command, environment)
    shown = b""
    while b"passphrase of" not in shown:
        shown += os.read(terminal, 1000)
    os.write(terminal, b"open sesame\n")
    try:
        while more := os.read(terminal, 1000):
            shown += more
    except OSError:  # Linux ends a terminal so
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, shown
    os.close(terminal)
    assert b"open sesame" not in shown
    assert Bundle.open(bundle_copy, keys.public).signed_by is not None


def test_an_encrypted_key_without_a_passphrase_or_a_terminal_ends_with_1(bundle_copy: Path, tmp_path: Path) -> None:
    keys = pair(tmp_path, passphrase=b"open sesame")
    command = [sys.executable, "-c", SIGN, "sign", str(bundle_copy), "--key", str(keys.private)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"error: {keys.private} is encrypted and no passphrase came with it" in done.stderr


def test_verify_with_the_public_key_says_who_signed(
    bundle_copy: Path, keys: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    run("sign", bundle_copy, "--key", keys.private)
    capsys.readouterr()
    call = ("verify", bundle_copy, "--backend", "onnxruntime", "--public-key", keys.public)
    assert run(*call) == 0
    assert f"signed by the key {keys.key.public_key.sha256}" in capsys.readouterr().err
    assert run(*call, "--json") == 0
    assert json.loads(capsys.readouterr().out)["signed_by"] == keys.key.public_key.sha256


def test_verify_without_a_key_says_that_the_signature_was_not_checked(
    bundle_copy: Path, keys: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    run("sign", bundle_copy, "--key", keys.private)
    capsys.readouterr()
    assert run("verify", bundle_copy, "--backend", "onnxruntime", "--json") == 0
    told = capsys.readouterr()
    assert "signed, but by whom was not checked: no public key was given" in told.err
    assert json.loads(told.out)["signed_by"] is None


@pytest.mark.parametrize(
    "command",
    [
        ("verify",),
        ("segment", "FRAMES", "--output", "OUT"),
        ("segment", "FRAMES", "--output", "OUT", "--workers", "2"),
        ("package", "--for", "cpp", "--output", "OUT"),
    ],
)
def test_every_command_that_serves_ends_with_1_where_the_signature_is_not_the_keys(
    demo_bundle: Path, tmp_path: Path, keys: Pair, command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    run("phantoms", "--output", tmp_path / "FRAMES", "--size", 128, "--count", 1)
    words = [tmp_path / word if word.isupper() else word for word in command[1:]]
    assert run(command[0], demo_bundle, *words, "--public-key", keys.public) == 1
    assert f"error: {demo_bundle} holds no model.sig" in capsys.readouterr().err
    assert not (tmp_path / "OUT").exists()


def test_a_package_of_a_signed_bundle_is_made_with_its_key(bundle_copy: Path, tmp_path: Path, keys: Pair) -> None:
    run("sign", bundle_copy, "--key", keys.private)
    output = tmp_path / "package"
    assert run("package", bundle_copy, "--for", "cpp", "--output", output, "--public-key", keys.public) == 0
    assert any(output.iterdir())


def test_every_worker_of_a_fleet_checks_the_signature(
    bundle_copy: Path, tmp_path: Path, keys: Pair, capfd: pytest.CaptureFixture[str]
) -> None:
    run("sign", bundle_copy, "--key", keys.private)
    run("phantoms", "--output", tmp_path / "frames", "--size", 128, "--count", 2)
    words = ("segment", bundle_copy, tmp_path / "frames", "--backend", "onnxruntime", "--public-key", keys.public)
    capfd.readouterr()
    assert run(*words, "--output", tmp_path / "out", "--workers", 2) == 0
    assert capfd.readouterr().err.count(f"signed by the key {keys.key.public_key.sha256}") == 2


def test_evaluate_looks_for_the_signature_before_it_reads_the_manifest(
    bundle_copy: Path, tmp_path: Path, keys: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    run("phantoms", "--output", tmp_path / "data" / "test", "--size", 128, "--count", 1)
    (bundle_copy / MANIFEST).write_bytes(b"{ this is no JSON")
    assert run("evaluate", bundle_copy, "--data", tmp_path / "data", "--public-key", keys.public) == 1
    assert f"error: {bundle_copy} holds no model.sig" in capsys.readouterr().err


def test_inspect_shows_whether_a_bundle_is_signed(
    demo_bundle: Path, bundle_copy: Path, keys: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    run("sign", bundle_copy, "--key", keys.private)
    capsys.readouterr()
    assert run("inspect", demo_bundle) == 0
    assert "signature                not signed\n" in capsys.readouterr().out
    assert run("inspect", bundle_copy) == 0
    assert "signature                signed, but by whom was not checked" in capsys.readouterr().out
    assert run("inspect", bundle_copy, "--json") == 0
    assert json.loads(capsys.readouterr().out)["signed"] is True


def test_sign_refuses_an_altered_bundle_with_1(
    bundle_copy: Path, keys: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle_copy / MODEL).write_bytes(b"another model")
    assert run("sign", bundle_copy, "--key", keys.private) == 1
    assert "copy the bundle again" in capsys.readouterr().err
