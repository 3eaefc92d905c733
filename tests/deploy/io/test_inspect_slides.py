"""`breastseg inspect` on slides: what the file says, or one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from slides import dicom_slide, grey16, pyramid, rgb8, smooth_rgb8

from breastseg_deploy.cli.main import main


def test_inspect_prints_what_a_slide_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metadata = {"Channel": {"Name": "DAPI"}, "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "SignificantBits": 12}
    path = pyramid(tmp_path / "a.ome.tif", grey16(300, 200), 2, metadata=metadata)
    assert main(["inspect", str(path)]) == 0
    rows = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert rows == [
        ["format", "OME-TIFF"],
        ["size", "300 x 200 px"],
        ["pixel", "size               0.5 um high, 0.5 um wide"],
        ["channels", "0: DAPI"],
        ["values", "uint16, 12 bits in use"],
        ["level", "0                  300 x 200 px, 1 / 1"],
        ["level", "1                  150 x 100 px, 1 / 2"],
        ["file", str(path)],
    ]


def test_inspect_with_json_is_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = pyramid(tmp_path / "a.ome.tif", rgb8(300, 200), 2)
    assert main(["inspect", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["size_px"] == [300, 200]
    assert found["channels"] == ["R", "G", "B"]
    assert found["pixel_size_um"] is None
    assert found["levels"] == [
        {"size_px": [300, 200], "downsample": 1.0},
        {"size_px": [150, 100], "downsample": 2.0},
    ]


def test_inspect_takes_a_folder_of_dicom_files_and_says_what_was_found_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dicom_slide(tmp_path / "a.dcm", smooth_rgb8(96, 128), DimensionOrganizationType=None)
    assert main(["inspect", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "pixel size               0.5 um high, 0.5 um wide" in out
    assert "found out                level 0 states no order of its tiles" in out


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_a_damaged_slide_is_one_line_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], share: float
) -> None:
    path = pyramid(tmp_path / "a.ome.tif", grey16(300, 200), 3)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert main(["inspect", str(path), "--json"]) == 1
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert line.startswith("error: ")
    assert str(path) in line
    assert json.loads(said.out)["kind"] == "SlideError"
