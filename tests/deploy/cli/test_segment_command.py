"""`breastseg segment`: masks that are written, bad frames among good ones, and what is refused before the first."""

from __future__ import annotations

import fcntl
import os
import pty
import shutil
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from command_line import FRAME, SIDE, breastseg, error_lines, json_on_stdout, names, refused, run, saved
from stub_driver import drivers
from surgery import put_constant_model

from breastseg_deploy.io.images import read_frame
from breastseg_deploy.segmenter import Segmenter


def test_files_and_folders_become_masks_of_0_and_255(demo_bundle: Path, tmp_path: Path) -> None:
    single = saved(tmp_path / "single.png", FRAME)
    saved(tmp_path / "folder" / "a.tif", FRAME // 2)
    saved(tmp_path / "folder" / "b.png", np.dstack([FRAME, FRAME // 2, FRAME // 3]))
    assert run("segment", demo_bundle, single, tmp_path / "folder", "--output", tmp_path / "out") == 0
    assert names(tmp_path / "out") == {"single.png", "a.png", "b.png"}
    with Segmenter.open(demo_bundle) as segment:
        for name in ("single", "folder/a", "folder/b"):
            source = next(tmp_path.glob(f"{name}.*"))
            mask = read_frame(tmp_path / "out" / f"{source.stem}.png")
            assert mask.dtype == np.uint8
            np.testing.assert_array_equal(mask, segment(read_frame(source)).mask * 255)
    assert (read_frame(tmp_path / "out" / "single.png") == 255).any()


def test_colour_jpeg_is_taken(demo_bundle: Path, tmp_path: Path) -> None:
    saved(tmp_path / "a.jpg", np.dstack([FRAME, FRAME, FRAME // 2]))
    assert run("segment", demo_bundle, tmp_path / "a.jpg", "--output", tmp_path / "out") == 0
    assert read_frame(tmp_path / "out" / "a.png").shape == (SIDE, SIDE)


def test_overlay_is_the_frame_with_an_outline(demo_bundle: Path, tmp_path: Path) -> None:
    saved(tmp_path / "a.png", FRAME)
    assert run("segment", demo_bundle, tmp_path / "a.png", "--output", tmp_path / "out", "--overlay") == 0
    assert names(tmp_path / "out") == {"a.png", "a.overlay.png"}
    drawn = read_frame(tmp_path / "out" / "a.overlay.png")
    outline = (drawn == (0, 255, 80)).all(axis=-1)
    assert outline.any()
    np.testing.assert_array_equal(drawn[~outline][:, 0], FRAME[~outline])


@pytest.mark.parametrize("overlay", [(), ("--overlay",)])
def test_16_bit_frames_with_their_depth_give_the_8_bit_mask(
    demo_bundle: Path, tmp_path: Path, overlay: Sequence[str]
) -> None:
    """8-bit frames in the same batch keep their own range."""
    saved(tmp_path / "in" / "deep.png", np.rint(FRAME / 255 * 4095).astype(np.uint16))
    saved(tmp_path / "in" / "plain.png", FRAME)
    assert run("segment", demo_bundle, tmp_path / "in", "--output", tmp_path / "out", "--bit-depth", 12, *overlay) == 0
    np.testing.assert_array_equal(read_frame(tmp_path / "out" / "deep.png"), read_frame(tmp_path / "out" / "plain.png"))


def test_16_bit_frames_without_their_depth_are_refused(
    demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path / "deep.png", FRAME.astype(np.uint16))
    assert run("segment", demo_bundle, tmp_path / "deep.png", "--output", tmp_path / "out") == 1
    (line,) = error_lines(capsys.readouterr().err)
    assert f"{tmp_path / 'deep.png'}: uint16 frames need the scanner's bit_depth (9 to 16), got None" in line
    assert "--bit-depth on the command line" in line
    assert names(tmp_path / "out") == set()


def test_16_bit_frames_beyond_their_depth_are_refused(
    demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path / "deep.png", FRAME.astype(np.uint16) * 256)
    assert run("segment", demo_bundle, tmp_path / "deep.png", "--output", tmp_path / "out", "--bit-depth", 10) == 1
    assert "over 1023; check bit_depth" in capsys.readouterr().err


def test_json_is_one_line_last_on_stdout_and_all_else_on_stderr(demo_bundle: Path, tmp_path: Path) -> None:
    saved(tmp_path / "in" / "a.png", FRAME)
    saved(tmp_path / "in" / "b.png", FRAME)
    arguments = ("--output", tmp_path / "out", "--backend", "onnxruntime", "--json")
    done = breastseg("segment", demo_bundle, tmp_path / "in", *arguments)
    assert done.returncode == 0
    found = json_on_stdout(done.stdout)
    assert [frame["mask"] for frame in found["frames"]] == [str(tmp_path / "out" / f"{name}.png") for name in "ab"]
    assert found["frames"][0]["cell_pixels"] == (read_frame(tmp_path / "out" / "a.png") == 255).sum()
    assert list(found["frames"][0]["timings_s"])[-1] == "total"
    assert (found["failed"], found["backend"]) == ([], "onnxruntime")
    assert done.stderr == f"{demo_bundle}: backend onnxruntime: asked for by name\n"


def test_without_json_stdout_says_how_many_masks_lie_where(
    demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path / "a.png", FRAME)
    assert run("segment", demo_bundle, tmp_path / "a.png", "--output", tmp_path / "out") == 0
    assert capsys.readouterr().out == f"1 masks in {tmp_path / 'out'}\n"


def test_one_bad_frame_fails_alone(demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path / "in" / "a.png", FRAME)
    (tmp_path / "in" / "b.png").write_bytes((tmp_path / "in" / "a.png").read_bytes()[:500])
    saved(tmp_path / "in" / "d.png", FRAME)
    assert run("segment", demo_bundle, tmp_path / "in", "--output", tmp_path / "out", "--json") == 1
    said = capsys.readouterr()
    found = json_on_stdout(said.out)
    assert names(tmp_path / "out") == {"a.png", "d.png"}
    assert [Path(frame["frame"]).name for frame in found["frames"]] == ["a.png", "d.png"]
    assert [Path(frame["frame"]).name for frame in found["failed"]] == ["b.png"]
    (damaged,) = error_lines(said.err)
    assert "b.png is damaged or no image" in damaged


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_nothing_stands_beside_the_line_about_a_damaged_frame(demo_bundle: Path, tmp_path: Path, suffix: str) -> None:
    """OpenCV would add its own words."""
    whole = saved(tmp_path / f"whole{suffix}", FRAME).read_bytes()
    damaged = tmp_path / f"damaged{suffix}"
    damaged.write_bytes(whole[: len(whole) // 2])
    done = breastseg("segment", demo_bundle, damaged, "--output", tmp_path / "out", "--backend", "onnxruntime")
    _, line = done.stderr.splitlines()
    of_kind = {".png": "is damaged or no image; expected a complete PNG, TIFF or JPEG file"}
    assert line == f"error: {damaged} {of_kind.get(suffix, 'holds no image; export the slide again')}"


def test_an_engine_that_fails_on_a_frame_is_reported_for_that_frame(
    bundle_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_constant_model(bundle_copy, ["N", 1, SIDE, SIDE], np.nan)
    for name in "ab":
        saved(tmp_path / "in" / f"{name}.png", FRAME)
    assert run("segment", bundle_copy, tmp_path / "in", "--output", tmp_path / "out") == 1
    lines = error_lines(capsys.readouterr().err)
    assert len(lines) == 2
    assert all("no mask is returned" in line for line in lines)
    assert names(tmp_path / "out") == set()


def test_empty_folder_is_refused(demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    line = refused(capsys, "segment", demo_bundle, tmp_path / "in", "--output", tmp_path / "out")
    assert "holds no images; expected files ending in .png" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["missing.png", "a" * 300])
def test_missing_image_is_refused(
    demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    line = refused(capsys, "segment", demo_bundle, tmp_path / name, "--output", tmp_path / "out")
    assert "there is no " in line or "file name too long" in line.lower()


def test_two_frames_of_one_name_are_refused(
    demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("x/a.png", "y/a.png"):
        saved(tmp_path / name, FRAME)
    line = refused(capsys, "segment", demo_bundle, tmp_path / "x", tmp_path / "y", "--output", tmp_path / "out")
    assert "would both be called a; rename one of them" in line


def test_output_that_is_not_empty_needs_force(
    demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = saved(tmp_path / "a.png", FRAME)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept.txt").write_text("kept")
    line = refused(capsys, "segment", demo_bundle, frame, "--output", tmp_path / "out")
    assert "is not empty; empty it, choose another, or pass --force" in line
    assert names(tmp_path / "out") == {"kept.txt"}
    assert run("segment", demo_bundle, frame, "--output", tmp_path / "out", "--force") == 0
    assert names(tmp_path / "out") == {"kept.txt", "a.png"}


def test_output_that_is_a_file_is_refused(
    demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = saved(tmp_path / "a.png", FRAME)
    line = refused(capsys, "segment", demo_bundle, frame, "--output", frame, "--force")
    assert "must be a folder or not exist yet" in line


@pytest.mark.parametrize("place", ["a.png/out", "/proc/out"])
def test_output_in_a_place_that_takes_no_files_is_refused(
    demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    frame = saved(tmp_path / "a.png", FRAME)
    line = refused(capsys, "segment", demo_bundle, frame, "--output", tmp_path / place)
    assert "cannot make the folder" in line
    assert line.endswith("choose another --output")


@pytest.mark.parametrize("part", ["images", "masks"])
def test_frames_and_ground_truth_are_never_overwritten(
    demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], part: str
) -> None:
    frame = saved(tmp_path / "data" / "images" / "a.png", FRAME)
    truth = saved(tmp_path / "data" / "masks" / "a.png", np.zeros_like(FRAME))
    before = frame.read_bytes(), truth.read_bytes()
    line = refused(capsys, "segment", demo_bundle, tmp_path / "data", "--output", tmp_path / "data" / part, "--force")
    assert f"{part}/a.png would become the mask of" in line
    assert "choose another --output" in line
    assert (frame.read_bytes(), truth.read_bytes()) == before


def test_mask_and_overlay_of_one_name_are_refused(
    demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.png", "a.overlay.png"):
        saved(tmp_path / "in" / name, FRAME)
    line = refused(capsys, "segment", demo_bundle, tmp_path / "in", "--output", tmp_path / "out", "--overlay")
    assert "a.overlay.png would become the overlay of" in line
    assert not (tmp_path / "out").exists()


def test_refusal_with_json_is_also_the_object_on_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = saved(tmp_path / "a.png", FRAME)
    assert run("segment", tmp_path / "missing", frame, "--output", tmp_path / "out", "--json") == 1
    said = capsys.readouterr()
    found = json_on_stdout(said.out)
    assert found["kind"] == "BundleError"
    assert f"error: {found['error']}" in said.err


def test_unknown_backend_is_refused(demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = saved(tmp_path / "a.png", FRAME)
    line = refused(capsys, "segment", demo_bundle, frame, "--output", tmp_path / "out", "--backend", "magic")
    assert "no backend 'magic'; choose one of auto, fastest, tensorrt, " in line


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (cc) on this machine")
@pytest.mark.parametrize("command", ["segment", "verify"])
def test_strict_refuses_the_cpu_where_a_gpu_ought_to_serve(demo_bundle: Path, tmp_path: Path, command: str) -> None:
    drivers(tmp_path, libcuda=100)  # a driver that shows no GPU
    arguments: list[object] = ["-m", "breastseg_deploy.cli.main", command, demo_bundle]
    if command == "segment":
        arguments += [saved(tmp_path / "a.png", FRAME), "--output", tmp_path / "out"]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}

    def ended(*more: str) -> subprocess.CompletedProcess[str]:
        asked = [sys.executable, *map(str, arguments), *more]
        return subprocess.run(asked, env=environment, capture_output=True, text=True, check=False)

    refusal = ended("--strict")
    assert refusal.returncode == 1
    assert "this machine has an NVIDIA driver, so with strict=True the CPU may not serve in its p" in refusal.stderr
    served = ended()
    assert served.returncode == 0
    told = "; passed over: tensorrt, tensorrt-rtx, onnxruntime-cuda (the NVIDIA driver shows no usable GPU"
    assert told in served.stderr


def test_progress_bar_is_shown_on_a_terminal_and_only_there(demo_bundle: Path, tmp_path: Path) -> None:
    frame = saved(tmp_path / "a.png", FRAME)
    command = [sys.executable, "-m", "breastseg_deploy.cli.main", "segment", str(demo_bundle), str(frame), "--output"]
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))  # a new terminal has no width at all
    seen: list[bytes] = []

    def read() -> None:
        while True:
            try:
                seen.append(os.read(ours, 4096))
            except OSError:  # the terminal's other end is closed
                return

    reader = threading.Thread(target=read)
    reader.start()
    subprocess.run([*command, str(tmp_path / "one")], stdout=subprocess.PIPE, stderr=theirs, check=True)
    os.close(theirs)
    reader.join(timeout=20)
    os.close(ours)
    assert b"1/1" in b"".join(seen)
    plain = subprocess.run([*command, str(tmp_path / "two")], capture_output=True, text=True, check=True)
    assert "1/1" not in plain.stderr


def test_a_mask_that_cannot_be_written_fails_alone(
    demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path / "in" / "a.png", FRAME)
    saved(tmp_path / "in" / "b.png", FRAME)
    (tmp_path / "out" / "a.png").mkdir(parents=True)
    words = ("--output", tmp_path / "out", "--force", "--json")
    assert run("segment", demo_bundle, tmp_path / "in", *words) == 1
    found = json_on_stdout(capsys.readouterr().out)
    assert [Path(one["frame"]).name for one in found["frames"]] == ["b.png"]
    assert [(Path(one["frame"]).name, one["exit_code"]) for one in found["failed"]] == [("a.png", 1)]


@pytest.mark.parametrize("option", [("--window", "0,30"), ("--mpp", "0.1"), ("--channel", "red"), ("--rescale",)])
def test_options_that_a_frame_would_be_read_without_are_refused(
    demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: tuple[str, ...]
) -> None:
    saved(tmp_path / "a.png", FRAME)
    assert run("segment", demo_bundle, tmp_path / "a.png", "--output", tmp_path / "out", *option) == 1
    assert f"{option[0]} would not change how {tmp_path / 'a.png'} is read" in capsys.readouterr().err
