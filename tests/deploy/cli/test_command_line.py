"""`breastseg` as a user and a script meet it: files written, exit codes, what stands on stdout and what on stderr."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import pty
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from stub_driver import drivers
from surgery import alter_golden, artefact, edit_manifest, put_constant_model

from breastseg_deploy.backends.registry import BACKENDS
from breastseg_deploy.bundle import FP16, MODEL, Bundle
from breastseg_deploy.cli.main import main
from breastseg_deploy.io.images import read_frame
from breastseg_deploy.phantom import phantom_frame
from breastseg_deploy.segmenter import Segmenter
from breastseg_export.main import main as export

SIDE = 128
FRAME = phantom_frame(0, (SIDE, SIDE)).frame
LIMIT_FILE_SIZE = (
    "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    "resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); "
    "from breastseg_deploy.cli.main import main; sys.exit(main(sys.argv[1:]))"
)

HEED_CTRL_C = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from breastseg_deploy.cli.main import main; sys.exit(main(sys.argv[1:]))"
)
"""Shells let their background jobs ignore SIGINT, and so would a child of tests that run in one."""


def saved(path: Path, image: NDArray[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[:, :, ::-1] if image.ndim == 3 else image)
    return path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def breastseg(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "breastseg_deploy.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def json_on_stdout(text: str) -> dict[str, Any]:
    """Stdout must be one line, and that line one JSON object."""
    assert text.endswith("\n")
    assert text.count("\n") == 1
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


def error_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("error: ")]


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


# segment: what is written


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


# segment: bad frames among good ones


def test_one_bad_frame_fails_alone(demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path / "in" / "a.png", FRAME)
    (tmp_path / "in" / "b.png").write_bytes((tmp_path / "in" / "a.png").read_bytes()[:500])
    saved(tmp_path / "in" / "c.png", FRAME[:64, :64])
    saved(tmp_path / "in" / "d.png", FRAME)
    assert run("segment", demo_bundle, tmp_path / "in", "--output", tmp_path / "out", "--json") == 1
    said = capsys.readouterr()
    found = json_on_stdout(said.out)
    assert names(tmp_path / "out") == {"a.png", "d.png"}
    assert [Path(frame["frame"]).name for frame in found["frames"]] == ["a.png", "d.png"]
    assert [Path(frame["frame"]).name for frame in found["failed"]] == ["b.png", "c.png"]
    damaged, small = error_lines(said.err)
    assert "b.png is damaged or no image" in damaged
    assert "c.png: a frame is (H, W) or (H, W, 3) of 128 x 128 px, got (64, 64); frames are never resized here" in small


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_nothing_stands_beside_the_line_about_a_damaged_frame(demo_bundle: Path, tmp_path: Path, suffix: str) -> None:
    """OpenCV would add its own words."""
    whole = saved(tmp_path / f"whole{suffix}", FRAME).read_bytes()
    damaged = tmp_path / f"damaged{suffix}"
    damaged.write_bytes(whole[: len(whole) // 2])
    done = breastseg("segment", demo_bundle, damaged, "--output", tmp_path / "out", "--backend", "onnxruntime")
    _, line = done.stderr.splitlines()
    assert line == f"error: {damaged} is damaged or no image; expected a complete PNG, TIFF or JPEG file"


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


# segment: what is refused before anything is written


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must end with exit code 1 and one line; returns that line."""
    assert run(*arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("error: ")
    return line


def test_empty_folder_is_refused(demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    line = refused(capsys, "segment", demo_bundle, tmp_path / "in", "--output", tmp_path / "out")
    assert "holds no frames; expected files ending in .png" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["missing.png", "a" * 300])
def test_missing_image_is_refused(
    demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    line = refused(capsys, "segment", demo_bundle, tmp_path / name, "--output", tmp_path / "out")
    assert "there is no " in line or "file name too long" in line


def test_two_frames_of_one_name_are_refused(
    demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("x/a.png", "y/a.png"):
        saved(tmp_path / name, FRAME)
    line = refused(capsys, "segment", demo_bundle, tmp_path / "x", tmp_path / "y", "--output", tmp_path / "out")
    assert "would both become a.png; give one another name" in line


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


def test_commands_leave_the_callers_logging_as_it_was(demo_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("breastseg_deploy")
    before = (log.level, log.propagate, list(log.handlers))
    assert run("verify", demo_bundle) == 0
    assert (log.level, log.propagate, list(log.handlers)) == before
    assert capsys.readouterr().err.count(": backend ") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("segment",),
        ("segment", "bundle", "a.png"),
        ("segment", "bundle", "a.png", "--output", "out", "--bit-depth", "8"),
        ("segment", "bundle", "a.png", "--output", "out", "--bit-depth", "twelve"),
        ("verify", "bundle", "--bit-depth", "17"),
        ("no-such-command",),
        ("verify", "bundle", "--no-such-flag"),
    ],
)
def test_wrong_usage_ends_with_2(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert "usage: breastseg" in said.err
    assert said.out == ""


@pytest.mark.parametrize(
    ("program", "words", "complaint"),
    [
        (main, (), "the following arguments are required: COMMAND"),
        (main, ("verify", "bundle", "--bit-depth", "17"), "argument --bit-depth: invalid choice: 17"),
        (main, ("verify", "bundle", "--no-such-flag"), "unrecognized arguments: --no-such-flag"),
        (export, ("demo",), "the following arguments are required: --output"),
    ],
)
@pytest.mark.parametrize("flag", ["--json", "--js"])
def test_wrong_usage_with_json_is_also_the_object_on_stdout(
    program: Callable[[Sequence[str]], int],
    words: Sequence[str],
    complaint: str,
    flag: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        program([*words, flag])
    assert ended.value.code == 2
    said = capsys.readouterr()
    found = json_on_stdout(said.out)
    assert found["kind"] == "UsageError"
    assert found["error"].startswith(complaint)
    assert said.err.splitlines()[-1].endswith(f": error: {found['error']}")


# segment: the machine gives way


def test_full_disk_ends_the_batch_in_one_line_and_keeps_what_is_whole(demo_bundle: Path, tmp_path: Path) -> None:
    saved(tmp_path / "in" / "a.png", np.zeros_like(FRAME))
    saved(tmp_path / "in" / "b.png", FRAME)
    whole = breastseg("segment", demo_bundle, tmp_path / "in", "--output", tmp_path / "whole")
    small, large = ((tmp_path / "whole" / name).stat().st_size for name in ("a.png", "b.png"))
    assert (whole.returncode, small < large) == (0, True)
    code = LIMIT_FILE_SIZE.format(limit=(small + large) // 2)
    arguments = ["segment", str(demo_bundle), str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[1:] == [
        f"error: cannot write {tmp_path / 'out' / 'b.png'}: file too large; nothing was left half-written: "
        "make room or choose another place"
    ]
    assert names(tmp_path / "out") == {"a.png"}
    assert (tmp_path / "out" / "a.png").read_bytes() == (tmp_path / "whole" / "a.png").read_bytes()


def test_ctrl_c_keeps_finished_masks_whole_and_ends_with_130(demo_bundle: Path, tmp_path: Path) -> None:
    for number in range(400):
        saved(tmp_path / "in" / f"{number:03d}.png", FRAME)
    out = tmp_path / "out"
    arguments = ["segment", str(demo_bundle), str(tmp_path / "in"), "--output", str(out), "--json"]
    command = [sys.executable, "-c", HEED_CTRL_C, *arguments]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (not out.is_dir() or len(list(out.glob("[0-9]*.png"))) < 3):
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    stdout, stderr = child.communicate(timeout=60)
    assert child.returncode == 130, stderr
    assert "interrupted; nothing is half-written" in stderr
    assert "Traceback" not in stderr
    assert json_on_stdout(stdout)["kind"] == "KeyboardInterrupt"
    finished = names(out)
    assert 3 <= len(finished) < 400
    assert all(len(name) == len("000.png") for name in finished)
    for name in finished:
        assert set(np.unique(read_frame(out / name))) <= {0, 255}


CTRL_C_INSIDE_A_STRING = """
import sys
from breastseg_deploy.cli.start import started

def program(_):
    exec("raise KeyboardInterrupt")

sys.exit(started(program, None))
"""


def test_ctrl_c_while_code_in_a_string_runs_ends_with_130_under_python_m(tmp_path: Path) -> None:
    (tmp_path / "interrupted_inside.py").write_text(CTRL_C_INSIDE_A_STRING)
    command = [sys.executable, "-m", "interrupted_inside"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "error: interrupted; nothing is half-written\n")


TOLD_WHEN_IT_BEGINS = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from {module} import main
sys.stderr.write("begins\\n")
sys.stderr.flush()
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("breastseg_deploy.cli.main", ("doctor", "--json")),
        ("breastseg_export.main", ("no-such-checkpoint", "--output", "no-such-folder/bundle", "--json")),
    ],
)
def test_ctrl_c_in_the_first_moments_is_one_line_and_130(module: str, words: Sequence[str], tmp_path: Path) -> None:
    """Libraries that are being imported turn an interrupt into errors of their own, or swallow it."""
    command = [sys.executable, "-c", TOLD_WHEN_IT_BEGINS.format(module=module), *words]
    interrupted = 0
    for delay_ms in range(0, 200, 10):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        assert child.stderr is not None
        assert child.stderr.readline() == "begins\n"
        time.sleep(delay_ms / 1000)
        child.send_signal(signal.SIGINT)
        stdout, stderr = child.communicate(timeout=60)
        assert "Traceback" not in stderr, f"after {delay_ms} ms: {stderr}"
        if child.returncode == 130:
            interrupted += 1
            assert stderr == "error: interrupted; nothing is half-written\n"
            assert json_on_stdout(stdout) == {
                "error": "interrupted; nothing is half-written",
                "kind": "KeyboardInterrupt",
            }
        else:  # it had ended by itself
            assert child.returncode in (0, 1)
    assert interrupted >= 5


def test_ctrl_c_stays_ignored_where_the_shell_asked_for_that(tmp_path: Path) -> None:
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    code += "from breastseg_deploy.cli.start import loaded, started\n"
    code += (
        "def program(_): signal.raise_signal(signal.SIGINT); loaded(); signal.raise_signal(signal.SIGINT); return 0\n"
    )
    code += "sys.exit(started(program, None))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_caller_in_the_same_process_keeps_its_own_ctrl_c(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    assert main(["doctor"]) == 0
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("module", ["breastseg_deploy.cli.main", "breastseg_export.main"])
def test_what_is_imported_before_ctrl_c_is_heeded_is_next_to_nothing(module: str) -> None:
    code = f"import os, sys; before = set(sys.modules); import {module}; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours = {
        "breastseg_deploy",
        "breastseg_deploy.cli",
        "breastseg_deploy.cli.start",
        "breastseg_deploy.version",
        module,
    }
    assert set(done.stdout.split()) <= {"__future__", module.partition(".")[0], *ours}


def test_reader_that_goes_away_ends_the_command_quietly(demo_bundle: Path) -> None:
    command = [sys.executable, "-m", "breastseg_deploy.cli.main", "inspect", str(demo_bundle), "--json"]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [("inspect",), ("inspect", "--json")])
def test_stdout_on_a_full_disk_is_an_error_and_no_success(demo_bundle: Path, arguments: Sequence[str]) -> None:
    command = [sys.executable, "-m", "breastseg_deploy.cli.main", arguments[0], str(demo_bundle), *arguments[1:]]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "No space left on device; check space and permissions" in done.stderr


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


# verify


def test_verify_passes_a_whole_bundle(demo_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", demo_bundle) == 0
    said = capsys.readouterr()
    assert said.out == f"{demo_bundle} is verified on this machine\n"
    assert all(f"{name}: Dice " in said.err for name in Bundle.open(demo_bundle).manifest.goldens)


def test_verify_with_json_is_one_line(demo_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", demo_bundle, "--json") == 0
    found = json_on_stdout(capsys.readouterr().out)
    assert found["backend"] in BACKENDS
    assert all(golden["dice"] >= 0.9999 for golden in found["goldens"])


def test_verify_measures_frames_with_ground_truth(
    bundle_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loose = {"worst_dice": 0.5, "mean_dice": 0.5, "dice_change": 1.0}  # the limits are tested in test_verification
    edit_manifest(bundle_copy, lambda raw: artefact(raw, FP16).update(limits=loose))
    for number in range(2):
        phantom = phantom_frame(number, (SIDE, SIDE))
        saved(tmp_path / "data" / "images" / f"{number}.png", phantom.frame)
        saved(tmp_path / "data" / "masks" / f"{number}.png", phantom.mask * 255)
    assert run("verify", bundle_copy, "--frames", tmp_path / "data", "--json") == 0
    said = capsys.readouterr()
    frames = json_on_stdout(said.out)["frames"]
    assert frames["frames"] == 2
    assert frames["truth_dice_with_cells"] is not None
    assert "Dice against ground truth, frames with cells" in said.err


def test_verify_with_nothing_to_compare_with_does_not_put_it_down_to_too_few_frames(
    gated_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bundle in float32 alone: ONNX Runtime has no other way to be held to."""
    size_px = Bundle.open(gated_bundle).manifest.frame.size_px
    phantom = phantom_frame(0, size_px)
    saved(tmp_path / "data" / "images" / "0.png", phantom.frame)
    saved(tmp_path / "data" / "masks" / "0.png", phantom.mask * 255)
    assert run("verify", gated_bundle, "--backend", "onnxruntime", "--frames", tmp_path / "data") == 0
    said = capsys.readouterr().err
    assert "the other way being none" in said
    assert "frames with cells: nothing to measure it on" in said
    assert "not held to its limit" not in said


def test_verify_refuses_an_altered_bundle_with_1(bundle_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (bundle_copy / MODEL).open("ab") as file:
        file.write(b"x")
    assert "copy the bundle again" in refused(capsys, "verify", bundle_copy)


def test_verify_ends_with_3_where_the_engine_does_not_reproduce_the_reference(
    bundle_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alter_golden(bundle_copy, frame=np.zeros((SIDE, SIDE, 3), np.uint8))
    assert run("verify", bundle_copy, "--json") == 3
    said = capsys.readouterr()
    assert json_on_stdout(said.out)["kind"] == "ParityError"
    assert "do not use its portable artefact on this machine" in said.err
    assert "is verified" not in said.out


def test_verify_refuses_a_folder_without_frames(
    demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "holds no frames" in refused(capsys, "verify", demo_bundle, "--frames", tmp_path)


# inspect, doctor, phantoms, help


def test_inspect_shows_what_the_bundle_says_about_itself(demo_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", demo_bundle) == 0
    shown = capsys.readouterr().out
    for words in (
        "128 x 128 uint8 RGB",
        "efficientnet-b0",
        "fp16",
        "intended use",
        "in ONNX Runtime: worst Dice",
    ):
        assert words in shown


def test_inspect_with_json_is_the_manifest(demo_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", demo_bundle, "--json") == 0
    assert json_on_stdout(capsys.readouterr().out) == json.loads((demo_bundle / "manifest.json").read_text())


def test_inspect_refuses_what_is_no_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "expected a folder made by breastseg-export" in refused(capsys, "inspect", tmp_path / "none")


def test_doctor_says_that_this_machine_can_segment(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor") == 0
    assert "backend onnxruntime       yes" in capsys.readouterr().out
    assert run("doctor", "--json") == 0
    assert json_on_stdout(capsys.readouterr().out)["can_segment"] is True


def test_doctor_ends_with_4_and_the_remedy_where_no_engine_is_installed() -> None:
    code = (
        "import sys, importlib.metadata as metadata\n"
        "sys.modules['openvino'] = None\n"
        "installed = metadata.version\n"
        "def version(name):\n"
        "    if name.startswith(('onnxruntime', 'openvino')): raise metadata.PackageNotFoundError(name)\n"
        "    return installed(name)\n"
        "metadata.version = version\n"
        "from breastseg_deploy.cli.main import main; sys.exit(main(['doctor']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert "to have it: pip install 'breastseg-deploy[cpu]'" in done.stdout


def test_a_missing_engine_library_ends_segment_with_4(demo_bundle: Path, tmp_path: Path) -> None:
    frame = saved(tmp_path / "a.png", FRAME)
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    for engine in ("onnxruntime", "openvino"):
        (hidden / f"{engine}.py").write_text(f"raise ModuleNotFoundError('No module', name={engine!r})")
    environment = {**os.environ, "PYTHONPATH": str(hidden)}
    done = breastseg("segment", demo_bundle, frame, "--output", tmp_path / "out", env=environment)
    assert done.returncode == 4
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: no backend can serve here: tensorrt")
    assert line.endswith(
        "onnxruntime (onnxruntime is needed here and not installed: pip install 'breastseg-deploy[cpu]')"
    )


def test_a_missing_engine_library_ends_segment_by_name_with_4(demo_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise ModuleNotFoundError(\"No module\", name='onnxruntime')")
    frame = saved(tmp_path / "a.png", FRAME)
    arguments = ("--output", tmp_path / "out", "--backend", "onnxruntime")
    done = breastseg("segment", demo_bundle, frame, *arguments, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 4
    assert done.stderr == "error: onnxruntime is needed here and not installed: pip install 'breastseg-deploy[cpu]'\n"


def test_phantoms_are_written_with_their_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("phantoms", "--output", tmp_path / "out", "--count", 3, "--size", 64) == 0
    assert (
        names(tmp_path / "out" / "images")
        == names(tmp_path / "out" / "masks")
        == {f"phantom-000{n}.png" for n in range(3)}
    )
    made = phantom_frame(2, (64, 64))
    np.testing.assert_array_equal(read_frame(tmp_path / "out" / "images" / "phantom-0002.png"), made.frame)
    np.testing.assert_array_equal(read_frame(tmp_path / "out" / "masks" / "phantom-0002.png"), made.mask * 255)
    assert "no clinical evidence" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flag", "value", "words"), [("--count", 0, "at least 1, got 0"), ("--size", 16, "at least 32 x 32")]
)
def test_phantoms_out_of_range_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, value: int, words: str
) -> None:
    assert words in refused(capsys, "phantoms", "--output", tmp_path / "out", flag, value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["segment", "--help"], ["verify", "--help"]])
def test_help_and_version_import_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom breastseg_deploy.cli.main import main\n"
        f"try: main({arguments})\nexcept SystemExit as end: assert end.code == 0\n"
        "heavy = {'pydantic', 'torch', 'torchvision', 'lightning', 'onnx', 'onnxruntime', 'cv2', 'tqdm', 'scipy'}\n"
        "print(sorted(heavy & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "breastseg" in done.stdout


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    for command in ("segment", "verify", "inspect", "doctor", "export", "train"):
        assert f"\n    {command} " in shown
