"""`breastseg segment` as a fleet writes what it writes alone."""

from __future__ import annotations

import json
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
