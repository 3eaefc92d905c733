"""`breastseg segment --drift`: frames of another kind are told, and their masks are the same as without it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from surgery import edit_manifest

from breastseg_deploy.cli.main import main
from breastseg_deploy.drift import WINDOW_FRAMES
from breastseg_deploy.fingerprint import fingerprint, measure
from breastseg_deploy.io.images import png_bytes
from breastseg_deploy.phantom import phantom_frame

SIDE = 128


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture
def watched(bundle_copy: Path) -> Path:
    """A bundle with the fingerprint of phantoms."""
    phantoms = [phantom_frame(number, (SIDE, SIDE)) for number in range(40)]
    found = fingerprint([measure(one.frame, one.mask, None) for one in phantoms])
    assert found is not None
    edit_manifest(bundle_copy, lambda raw: raw.update(drift=found.model_dump()))
    return bundle_copy


@pytest.fixture
def dark(tmp_path: Path) -> Path:
    """One frame more than a window, each far too dark."""
    (tmp_path / "dark").mkdir()
    for number in range(WINDOW_FRAMES + 1):
        frame = phantom_frame(100 + number, (SIDE, SIDE)).frame // 8
        (tmp_path / "dark" / f"{number:03}.png").write_bytes(png_bytes(frame))
    return tmp_path / "dark"


def test_frames_of_another_kind_are_told_and_counted_and_their_masks_stay(
    watched: Path, dark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ("segment", watched, dark, "--backend", "onnxruntime", "--json", "--output")
    assert run(*call, tmp_path / "watched", "--drift") == 0
    told = capsys.readouterr()
    assert f"the last {WINDOW_FRAMES} frames are unlike those of the export: noise: noise (grey values) is" in told.err
    assert f"drift watch: 2 of 2 windows of {WINDOW_FRAMES} frames outside the limits" in told.err
    drift = json.loads(told.out)["drift"]
    assert (drift["windows"], drift["windows_outside"], drift["warnings"]["noise"]) == (2, 2, 2)
    assert run(*call, tmp_path / "plain") == 0
    assert "drift" not in json.loads(capsys.readouterr().out)
    for mask in (tmp_path / "plain").iterdir():
        assert (tmp_path / "watched" / mask.name).read_bytes() == mask.read_bytes()


def test_fewer_frames_than_a_window_are_not_judged_and_that_is_said(
    watched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.png").write_bytes(png_bytes(phantom_frame(0, (SIDE, SIDE)).frame))
    call = ("segment", watched, tmp_path / "one.png", "--backend", "onnxruntime", "--output", tmp_path / "out")
    assert run(*call, "--drift") == 0
    assert f"drift watch: nothing was judged, it takes {WINDOW_FRAMES} frames" in capsys.readouterr().err


def test_a_bundle_without_a_fingerprint_ends_with_1(
    demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.png").write_bytes(png_bytes(phantom_frame(0, (SIDE, SIDE)).frame))
    call = ("segment", demo_bundle, tmp_path / "one.png", "--backend", "onnxruntime", "--output", tmp_path / "out")
    assert run(*call, "--drift") == 1
    assert "holds no fingerprint of frames to compare with" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_slides_and_fleets_are_not_watched_and_say_so(
    watched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.png").write_bytes(png_bytes(phantom_frame(0, (SIDE, SIDE)).frame))
    call = ("segment", watched, tmp_path / "one.png", "--output", tmp_path / "out", "--drift", "--workers", 2)
    assert run(*call) == 1
    assert "--drift watches frames that one process segments; omit it" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
