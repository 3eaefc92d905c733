"""`breastseg` as a user and a script meet it: usage, help, and the small commands inspect, doctor and phantoms."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from command_line import FRAME, breastseg, json_on_stdout, names, refused, run, saved

from breastseg_deploy.cli.main import main
from breastseg_deploy.io.images import read_frame
from breastseg_deploy.phantom import phantom_frame
from breastseg_export.main import main as export


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


def test_inspect_shows_what_the_bundle_says_about_itself(demo_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", demo_bundle) == 0
    shown = capsys.readouterr().out
    for words in (
        "128 x 128 uint8 RGB",
        "tu-tf_efficientnet_lite0",
        "fp16",
        "intended use",
        "in ONNX Runtime: worst Dice",
    ):
        assert words in shown


def test_inspect_with_json_is_the_manifest_and_what_is_known_of_its_signature(
    demo_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("inspect", demo_bundle, "--json") == 0
    manifest = json.loads((demo_bundle / "manifest.json").read_text())
    assert json_on_stdout(capsys.readouterr().out) == {**manifest, "signed": False, "signature": "not signed"}


def test_inspect_refuses_what_is_no_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "expected a folder made by breastseg-export" in refused(capsys, "inspect", tmp_path / "none")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("inspect", "a" * 300), "no bundle at aaa"),
        (("watch", "bundle", "a" * 300, "--output", "out"), "cannot look at aaa"),
    ],
)
def test_a_path_that_cannot_be_looked_at_is_one_sentence_and_the_json_object(
    words: Sequence[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words, "--json") == 1
    said = capsys.readouterr()
    error = json_on_stdout(said.out)["error"]
    assert error.startswith(sentence)
    assert said.err.splitlines()[-1] == f"error: {error}"


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


def test_force_replaces_phantoms_and_no_data_set_with_folders_of_the_same_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("phantoms", "--output", tmp_path / "out", "--count", 1, "--size", 64, "--force")
    assert run(*words) == run(*words) == 0
    for mine in ("images/patient-17.png", "notes.txt"):
        (tmp_path / "out" / mine).touch()
        assert f"holds {mine}, which is no phantom, so --force will not delete it" in refused(capsys, *words)
        (tmp_path / "out" / mine).unlink()
    assert names(tmp_path / "out" / "images") == {"phantom-0000.png"}


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
