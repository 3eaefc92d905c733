"""`breastseg segment` as a fleet writes what it writes alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from breastseg_deploy.bundle import Bundle
from breastseg_deploy.cli.main import main
from breastseg_deploy.fleet.ledger import LEDGER
from breastseg_deploy.phantom import phantom_frame

_OF_THE_RUN = ("seconds", "mpx_per_s")
"""Entries of `result.json` that another run cannot repeat."""


@pytest.fixture(scope="module")
def inputs(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slides, a frame, and a file that is no image."""
    pytest.importorskip("tifffile", reason="the extra slides is not installed")
    folder = tmp_path_factory.mktemp("inputs")
    side = Bundle.open(demo_bundle).manifest.frame.height_px
    for name, size in (("one", (300, 200)), ("two", (150, 420)), ("frame", (side, side))):
        cv2.imwrite(str(folder / f"{name}.tif"), phantom_frame(5, size).frame)
    (folder / "broken.tif").write_bytes(b"II*\0 and no more")
    return folder


@pytest.fixture(scope="module")
def alone(demo_bundle: Path, inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process writes."""
    output = tmp_path_factory.mktemp("alone") / "out"
    main(["segment", str(demo_bundle), str(inputs), "--output", str(output), "--backend", "onnxruntime"])
    return output


def test_two_workers_write_what_one_process_writes(
    demo_bundle: Path, inputs: Path, alone: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    words = ["segment", str(demo_bundle), str(inputs), "--output", str(output), "--backend", "onnxruntime"]

    code = main([*words, "--workers", "2", "--retries", "0", "--json"])

    told = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert code == 1
    assert [one["input"] for one in told["failed"]] == [str(inputs / "broken.tif")]
    assert sorted(told["done"]) == ["frame", "one", "two"]
    assert contents(output) == contents(alone)


def test_a_list_and_its_parts_hold_every_input_once(
    demo_bundle: Path, inputs: Path, alone: Path, tmp_path: Path
) -> None:
    listed, output = tmp_path / "list.txt", tmp_path / "out"
    names = ["frame.tif", "one.tif", "two.tif"]
    listed.write_text("".join(f"{inputs / name}\n\n" for name in names))
    words = ["segment", str(demo_bundle), str(listed), "--output", str(output), "--backend", "onnxruntime"]

    for part in ("1/2", "2/2"):
        assert main([*words, "--part", part]) in (0, 3)

    assert contents(output) == contents(alone)
    lines = [json.loads(line) for line in (output / LEDGER).read_text().splitlines()]
    assert sorted((line["name"], line["state"]) for line in lines) == [
        ("frame", "done"),
        ("one", "done"),
        ("two", "done"),
    ]


def contents(folder: Path) -> dict[str, Any]:
    """All files that a run leaves, but for the ledger, and for the seconds that it took."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or name.startswith((".", LEDGER)) or path.name == "report.html":
            continue
        content: Any = path.read_bytes()
        if path.name == "result.json":
            content = {key: value for key, value in json.loads(content).items() if key not in _OF_THE_RUN}
        found[name] = content
    assert np.any([name.endswith("result.json") for name in found])
    return found


@pytest.mark.parametrize("place", [".", "masks"])
def test_a_fleet_replaces_no_frame_and_no_ground_truth(
    demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    side = Bundle.open(demo_bundle).manifest.frame.height_px
    images, masks = (tmp_path / "images", tmp_path / "masks") if place == "masks" else (tmp_path, tmp_path)
    for folder in {images, masks}:
        folder.mkdir(exist_ok=True)
        cv2.imwrite(str(folder / "frame.png"), phantom_frame(5, (side, side)).frame)
    before = (masks / "frame.png").read_bytes()
    words = ["segment", str(demo_bundle), str(tmp_path), "--output", str(tmp_path / place), "--backend", "onnxruntime"]
    assert main([*words, "--workers", "1", "--json"]) == 1
    assert "would become the mask of" in capsys.readouterr().err
    assert (masks / "frame.png").read_bytes() == before


def test_a_fleet_that_cannot_begin_ends_at_once_with_the_reasons_exit_code(
    demo_bundle: Path, inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["segment", str(demo_bundle), str(inputs / "one.tif"), "--output", str(tmp_path / "out")]
    assert main([*words, "--backend", "tensorrt", "--workers", "1", "--json"]) == 4
    said = capfd.readouterr().err
    assert said.count("error: worker 0") == 1
    assert "no worker could begin, for the reason that stands above" in said


def test_a_name_in_another_encoding_fails_alone(demo_bundle: Path, inputs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "one.tif").write_bytes((inputs / "one.tif").read_bytes())
    try:
        (folder / os.fsdecode(b"M\xfcller.tif")).write_bytes((inputs / "two.tif").read_bytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    words = ["segment", str(demo_bundle), str(folder), "--backend", "onnxruntime", "--write", "csv", "--json"]
    for more in ([], ["--workers", "1", "--retries", "0"]):
        output = tmp_path / f"out{len(more)}"
        assert main([*words, "--output", str(output), *more]) == 1
        assert (output / "one" / "result.json").exists()


@pytest.mark.parametrize("retries", ["-1", "few"])
def test_retries_that_are_no_number_of_times_are_refused(retries: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["segment", "bundle", "images", "--output", "out", "--workers", "1", "--retries", retries])
    assert "expected a whole number from 0 on" in capsys.readouterr().err
