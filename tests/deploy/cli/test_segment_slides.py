"""`breastseg segment` on slides, and on frames and slides together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from surgery import alter_golden_tile

from breastseg_deploy.artefacts import SlideTiles, details_of
from breastseg_deploy.bundle import SLIDE, Bundle
from breastseg_deploy.cli.main import main
from breastseg_deploy.io.images import png_bytes
from breastseg_deploy.phantom import phantom_frame


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """A frame of the bundle's size, a slide of another, and a file that is neither."""
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "frame.png").write_bytes(png_bytes(phantom_frame(0, (128, 128)).frame))
    (folder / "slide.png").write_bytes(png_bytes(phantom_frame(0, (420, 640)).frame))
    return folder


def test_frames_and_slides_are_told_apart_and_one_that_fails_stops_no_other(
    demo_bundle: Path, places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (places / "broken.tif").write_bytes(b"II*\0 and no more")
    words = ["segment", str(demo_bundle), str(places), "--output", str(tmp_path / "out"), "--backend", "openvino"]
    assert main([*words, "--json"]) == 1
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert [Path(frame["frame"]).name for frame in found["frames"]] == ["frame.png"]
    (slide,) = found["slides"]
    assert (Path(slide["slide"]).name, slide["folder"]) == ("slide.png", str(tmp_path / "out" / "slide"))
    (failure,) = found["failed"]
    assert "broken.tif" in failure["error"]
    assert "slide.png: a slide" in told.err
    assert {path.name for path in (tmp_path / "out" / "slide").iterdir()} == {
        "result.json",
        "mask.ome.tif",
        "labels.ome.tif",
        "cells.geojson.gz",
        "cells.csv",
        "overview.png",
        "certificate.png",
        "report.html",
    }
    main(["segment", str(demo_bundle), str(places / "slide.png"), *words[3:]])
    assert "(found done)" in capsys.readouterr().err


def test_where_nothing_but_one_slide_fails_its_exit_code_is_the_commands(
    bundle_copy: Path, places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tiles,) = details_of(Bundle.open(bundle_copy).manifest, SLIDE, SlideTiles)
    alter_golden_tile(bundle_copy, frame=np.zeros((tiles.golden_px, tiles.golden_px, 3), np.uint8))
    words = ["segment", str(bundle_copy), str(places / "slide.png"), "--output", str(tmp_path / "out")]
    assert main([*words, "--backend", "onnxruntime", "--json"]) == 3
    (failure,) = json.loads(capsys.readouterr().out)["failed"]
    assert failure["exit_code"] == 3


def test_a_slide_over_its_limit_is_written_and_ends_with_3(
    bundle_copy: Path, places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = json.loads((bundle_copy / "manifest.json").read_text())
    (artefact,) = [one for one in manifest["artefacts"] if one["role"] == "slide"]
    artefact["details"]["limit_ppm"] = 1e-9
    (bundle_copy / "manifest.json").write_text(json.dumps(manifest))
    words = ["segment", str(bundle_copy), str(places / "slide.png"), "--output", str(tmp_path), "--write", "csv"]
    assert main([*words, "--backend", "onnxruntime"]) == 3
    assert "OVER the limit of 0 ppm" in capsys.readouterr().err
    assert (tmp_path / "slide" / "cells.csv").is_file()
    assert not (tmp_path / "slide" / "mask.ome.tif").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--rescale"], "the bundle states no pixel size, so nothing can be rescaled to it"),
        (["--write", "zarr"], "no file 'zarr' is known to write"),
        (["--write", "dicom-seg"], "dicom-seg belongs to DICOM slides alone"),
        (["--channel", "DAPI"], "no channel 'DAPI'"),
    ],
)
def test_what_a_slide_cannot_be_asked_for_is_refused_before_any_work(
    demo_bundle: Path,
    places: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    sentence: str,
) -> None:
    place = str(places / "slide.png")
    command = ["segment", str(demo_bundle), place, "--output", str(tmp_path / "out"), "--backend", "openvino"]
    assert main([*command, *words]) == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out" / "slide").exists()


def test_a_window_that_is_none_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["segment", "bundle", "image", "--output", "out", "--window", "5"])
    assert "a window is written LOW,HIGH as in 0,4095, got '5'" in capsys.readouterr().err


def test_16_bit_slides_need_a_depth_and_8_bit_ones_beside_them_none(
    demo_bundle: Path, places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deep = phantom_frame(2, (160, 192)).frame.astype(np.uint16) * 16
    (places / "deep.png").write_bytes(png_bytes(deep))  # type: ignore[arg-type]
    command = ["segment", str(demo_bundle), str(places), "--output", str(tmp_path / "out"), "--backend", "openvino"]
    assert main([*command, "--write", "csv"]) == 1
    assert "deep.png: the slide holds 16-bit values and their range is never guessed" in capsys.readouterr().err
    assert main([*command, "--write", "csv", "--bit-depth", "12", "--force", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["slides"]) == 2
