"""INT8: what is refused before anything is quantised."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from written_phantoms import SIZE, write_phantoms

from breastseg_deploy import FrameError, MachineError
from breastseg_deploy.errors import ArgumentError
from breastseg_deploy.io.images import png_bytes
from breastseg_deploy.phantom import phantom_frame
from breastseg_export.exporter import export_bundle
from breastseg_export.formats.int8 import check_int8_frames
from breastseg_export.named_frames import NamedFrames
from breastseg_export.settings import ExportSettings


def test_int8_and_frames_to_calibrate_on_belong_together(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="got --precision int8 and no --calibrate"):
        export_bundle(ExportSettings("demo", tmp_path / "b", "int8"))
    with pytest.raises(ArgumentError, match="got --precision fp32 and --calibrate"):
        export_bundle(ExportSettings("demo", tmp_path / "b", "fp32", calibrate=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_what_it_costs_is_measured_on_frames_with_masks_that_hold_cells(tmp_path: Path) -> None:
    calibration = NamedFrames(write_phantoms(tmp_path / "calibration", 100, 32), SIZE)
    with pytest.raises(ArgumentError, match="at least 8 frames whose masks hold cells, got phantoms"):
        check_int8_frames(calibration, NamedFrames(None, SIZE))
    without_masks = NamedFrames(write_phantoms(tmp_path / "without", 0, 24), SIZE)
    with pytest.raises(ArgumentError, match="whose masks hold cells, got 0"):
        check_int8_frames(calibration, without_masks)
    measured = write_phantoms(tmp_path / "with", 0, 24, masks=True)
    check_int8_frames(calibration, NamedFrames(measured, SIZE))
    for part in ("images", "masks"):
        (measured / part / "copy.png").write_bytes((measured / part / "0.png").read_bytes())
    with pytest.raises(ArgumentError, match="copy of --frames and 0 of --frames are the same frame"):
        check_int8_frames(calibration, NamedFrames(measured, SIZE))


def test_frames_that_cannot_calibrate_are_refused(tmp_path: Path) -> None:
    measured = NamedFrames(write_phantoms(tmp_path / "measured", 0, 24, masks=True), SIZE)

    def refused(folder: Path, words: str, error: type[Exception] = ArgumentError) -> None:
        with pytest.raises(error, match=words):
            check_int8_frames(NamedFrames(folder, SIZE), measured)

    refused(write_phantoms(tmp_path / "few", 100, 31), "at least 32 frames, got 31")
    refused(write_phantoms(tmp_path / "same", 20, 32), "20 of --calibrate and 20 of --frames are the same frame")
    twice = write_phantoms(tmp_path / "twice", 100, 32)
    (twice / "images" / "copy.png").write_bytes((twice / "images" / "100.png").read_bytes())
    refused(twice, "copy of --calibrate and 100 of --calibrate are the same frame")
    (twice / "images" / "copy.png").write_bytes(png_bytes(255 * phantom_frame(0, SIZE).mask))
    refused(twice, "copy of --calibrate holds no more than 2 values, as a mask does")
    damaged = write_phantoms(tmp_path / "damaged", 100, 32)
    (damaged / "images" / "100.png").write_bytes(b"no picture")
    refused(damaged, r"100\.png", FrameError)


def test_without_nncf_the_install_command_is_named_before_anything_is_done(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(MachineError, match=r"pip install 'breastseg-deploy\[int8\]'"):
        export_bundle(ExportSettings("demo", tmp_path / "b", "int8", calibrate=tmp_path / "nowhere"))
    assert list(tmp_path.iterdir()) == []
