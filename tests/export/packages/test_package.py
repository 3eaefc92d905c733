"""`breastseg package`: what all packages have in common."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest

from breastseg_deploy.bundle import Bundle
from breastseg_deploy.cli.main import main

CONSUMERS = ("bioimageio", "triton", "cpp")
"""Those that need nothing but this distribution; the web page needs npm (test_web)."""


@pytest.mark.parametrize("consumer", CONSUMERS)
def test_a_package_holds_the_bundles_own_model_and_manifest_to_the_byte(
    consumer: str, demo_bundle: Path, tmp_path: Path
) -> None:
    assert main(["package", str(demo_bundle), "--for", consumer, "--output", str(tmp_path / "package")]) == 0

    for name in ("model.onnx", "manifest.json"):
        found = list((tmp_path / "package").rglob(name))
        assert [one.read_bytes() for one in found] == [(demo_bundle / name).read_bytes()], name


def test_the_json_object_lists_every_file(
    demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "package"

    assert main(["package", str(demo_bundle), "--for", "triton", "--output", str(output), "--json"]) == 0

    answer = json.loads(capsys.readouterr().out)
    assert answer["for"] == "triton"
    assert all((output / name).is_file() for name in answer["files"])
    assert "models/breastseg/config.pbtxt" in answer["files"]


def test_an_altered_bundle_is_not_packaged(
    demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copytree(demo_bundle, tmp_path / "bundle")
    model = tmp_path / "bundle" / "model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(bytes(content))

    assert main(["package", str(tmp_path / "bundle"), "--for", "cpp", "--output", str(tmp_path / "package")]) == 1

    assert "was altered" in capsys.readouterr().err
    assert not (tmp_path / "package").exists()


def test_a_model_that_misses_its_goldens_here_is_not_packaged(
    demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = copytree(demo_bundle, tmp_path / "bundle")
    golden = bundle / Bundle.open(bundle).manifest.goldens[0]
    with np.load(golden) as arrays:
        wrong = 1 - arrays["probability"]
        np.savez_compressed(
            golden, frame=arrays["frame"], probability=wrong, mask=(wrong >= _threshold(bundle)).astype(np.uint8)
        )
    _write_down(bundle, golden)

    assert main(["package", str(bundle), "--for", "cpp", "--output", str(tmp_path / "package")]) == 3

    assert "golden" in capsys.readouterr().err
    assert not (tmp_path / "package").exists()


@pytest.mark.parametrize("consumer", CONSUMERS)
def test_force_replaces_a_package_and_none_that_holds_a_file_of_others(
    consumer: str, demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "package"
    words = ["package", str(demo_bundle), "--for", consumer, "--force", "--output", str(package)]

    assert main(words) == 0
    assert main(words) == 0
    (package / "thesis.tex").touch()
    assert main(words) == 1

    assert "holds thesis.tex, which is no part of such a package, so --force will not" in capsys.readouterr().err
    assert (package / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("consumer", "mine"),
    [("bioimageio", "rdf.yaml"), ("triton", "models"), ("cpp", "breastseg.hpp"), ("web", "app.mjs")],
)
def test_force_does_not_delete_a_project_that_has_a_name_of_a_package(
    consumer: str, mine: str, demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "README.md").touch()
    (tmp_path / mine).mkdir()

    assert main(["package", str(demo_bundle), "--for", consumer, "--force", "--output", str(tmp_path)]) == 1

    assert "manifest.json of a bundle, so --force will not delete it" in capsys.readouterr().err
    assert (tmp_path / mine).exists()


def _threshold(bundle: Path) -> float:
    return Bundle.open(bundle).manifest.threshold


def _write_down(bundle: Path, file: Path) -> None:
    """Let the manifest agree with a file that was changed."""
    place = bundle / "manifest.json"
    manifest = json.loads(place.read_text())
    content = file.read_bytes()
    manifest["files"][str(file.relative_to(bundle))] = {
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    place.write_text(json.dumps(manifest))
