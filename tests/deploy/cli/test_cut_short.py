"""Commands that are cut short: by Ctrl-C, a full disk, or a reader that goes away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from command_line import FRAME, breastseg, error_lines, json_on_stdout, names, saved

from breastseg_deploy.cli.main import main
from breastseg_deploy.io.images import read_frame

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


def test_a_mask_that_a_full_disk_cannot_take_fails_in_one_line_and_what_is_whole_stays(
    demo_bundle: Path, tmp_path: Path
) -> None:
    saved(tmp_path / "in" / "a.png", np.zeros_like(FRAME))
    saved(tmp_path / "in" / "b.png", FRAME)
    whole = breastseg("segment", demo_bundle, tmp_path / "in", "--output", tmp_path / "whole")
    small, large = ((tmp_path / "whole" / name).stat().st_size for name in ("a.png", "b.png"))
    assert (whole.returncode, small < large) == (0, True)
    code = LIMIT_FILE_SIZE.format(limit=(small + large) // 2)
    arguments = ["segment", str(demo_bundle), str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert error_lines(done.stderr) == [
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
    import breastseg_deploy.cli.command  # as every program does: its dataclasses are strings that ran to their end
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
        if "Traceback" in stderr and "breastseg" not in stderr:  # on a busy machine: in this test's own lines
            continue
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


SIGTERM_COMES = """
import os, signal, sys
from breastseg_deploy.cli.start import loaded, started

def program(words):
    try:
        if words[0] == "work":
            loaded()
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        sys.stderr.write("put in order\\n")
    return 0

sys.exit(started(program, None))
"""


@pytest.mark.parametrize(("moment", "order"), [("loading", ""), ("work", "put in order\n")])
def test_sigterm_is_one_line_and_143_and_in_the_work_all_is_put_in_order_first(moment: str, order: str) -> None:
    command = [sys.executable, "-c", SIGTERM_COMES, moment, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (143, f"{order}error: terminated; nothing is half-written\n")
    assert json_on_stdout(done.stdout) == {"error": "terminated; nothing is half-written", "kind": "Terminated"}


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


IMPORTED = """
import os, sys
before = set(sys.modules)
import {module}
from breastseg_deploy.cli.start import started
started(lambda _: print(*sorted(set(sys.modules) - before)) or 0, None)
"""


@pytest.mark.parametrize("module", ["breastseg_deploy.cli.main", "breastseg_export.main"])
def test_all_that_is_imported_before_ctrl_c_is_heeded_is_a_handful_of_our_own_files(module: str) -> None:
    code = IMPORTED.format(module=module)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours = {"breastseg_deploy", "breastseg_deploy.cli", "breastseg_deploy.cli.start", module.partition(".")[0], module}
    assert set(done.stdout.split()) == ours


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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_does_not_hide_why_a_command_with_json_failed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "breastseg_deploy.cli.main", "inspect", str(tmp_path / "none"), "--json"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: no bundle at ")
    assert "Traceback" not in done.stderr
