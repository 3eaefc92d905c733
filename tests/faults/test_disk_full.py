"""A disk that is full at each write: one sentence, exit code 1, nothing half-written; a full cache stops nobody."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from plant import FULL_DISK, child, findings

from breastseg_benchmark.kill import export_victim, train_victim
from breastseg_deploy.io.images import png_bytes, read_mask
from breastseg_deploy.phantom import phantom_frame

SIDE = 128

EACH_WRITE = (
    FULL_DISK
    + """
import io, pathlib, shutil
from contextlib import redirect_stderr, redirect_stdout
from {module} import main

place, most, words = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
def once(at):
    place.mkdir(parents=True)
    told = io.StringIO()
    disk.begin(place, at)
    with redirect_stderr(told), redirect_stdout(io.StringIO()):
        code = main(words)
    disk.begin("/nowhere", None) if at else None
    seen = disk.seen
    left = sorted(path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file())
    shutil.rmtree(place)
    return dict(at=at, seen=seen, code=code, told=told.getvalue().splitlines(), left=left)

whole = once(None)
print("found", json.dumps(whole))
step = max(1, whole["seen"] // most)
for at in sorted({{1, *range(1, whole["seen"] + 1, step), whole["seen"]}}):
    print("found", json.dumps(once(at)), flush=True)
"""
)


def test_segment_with_a_full_disk_at_each_write(demo_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(2):
        frame = phantom_frame(number, (SIDE, SIDE)).frame
        (tmp_path / "in" / f"{number}.png").write_bytes(png_bytes(frame))
    place = tmp_path / "place"
    words = (
        "segment",
        demo_bundle,
        tmp_path / "in",
        "--output",
        place / "out",
        "--overlay",
        "--backend",
        "onnxruntime",
    )
    code = EACH_WRITE.format(module="breastseg_deploy.cli.main")
    whole, *full = findings(child(code, place, 99, *words, cache=tmp_path / "cache"))
    assert (whole["code"], len(whole["left"])) == (0, 4)
    assert len(full) >= 5  # the folder, and two files for each frame
    for one in full:
        assert one["code"] == 1, one
        assert one["told"][-1].startswith("error: cannot ")
        assert "no space left on device" in one["told"][-1]
        assert set(one["left"]) < set(whole["left"]), one


def test_export_with_a_full_disk_at_writes_from_the_first_to_the_last(tmp_path: Path) -> None:
    victim = export_victim(tmp_path / "export")
    code = EACH_WRITE.format(module="breastseg_export.main")
    done = child(code, victim.output.parent, 2, *victim.words, cache=tmp_path / "cache")
    whole, *full = findings(done)
    assert (whole["code"], "bundle/manifest.json" in whole["left"]) == (0, True)
    failed = [one for one in full if one["code"] != 0]  # without a lock, it goes on: `unfinished` removes nothing then
    assert len(failed) >= len(full) - 1 >= 2
    for one in failed:
        assert one["code"] == 1, one
        assert "no space left on device; nothing was left half-written" in one["told"][-1], one
        assert one["left"] == [], one
    assert failed[-1]["at"] == whole["seen"]


LIMITED = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
del sys.argv[1]
"""


@pytest.mark.parametrize("largest_file", [100, 2_000_000])
def test_training_with_a_full_disk_leaves_no_half_of_a_model(tmp_path: Path, largest_file: int) -> None:
    """100 bytes: not even the description fits; 2 MB: no checkpoint does."""
    victim = train_victim(tmp_path)
    done = child(f"import sys{LIMITED}{victim.code}", largest_file, *victim.words, cache=tmp_path / "cache")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "cannot write" in done.stderr.splitlines()[-1]
    assert victim.problems() == []
    assert not list(victim.output.glob("*.safetensors"))
    assert victim.left_over() == []


FULL_CACHE = (
    FULL_DISK
    + """
import logging, pathlib, shutil
import numpy as np
from breastseg_deploy import Segmenter
from breastseg_deploy.phantom import phantom_frame

bundle, cache = sys.argv[1], pathlib.Path(os.environ["BREASTSEG_CACHE"])
def once(at):
    shutil.rmtree(cache, ignore_errors=True)
    disk.begin(cache, at)
    with Segmenter.open(bundle) as segment:
        mask = segment(phantom_frame(0, (128, 128)).frame).mask
        return dict(seen=disk.seen, pixels=int(mask.sum()), backend=segment.backend, reason=segment.backend_reason)

whole = once(None)
print("found", json.dumps(whole))
for at in range(1, whole["seen"] + 1):
    print("found", json.dumps(once(at)), flush=True)
"""
)


def test_a_cache_on_a_full_disk_stops_no_segmenter(demo_bundle: Path, tmp_path: Path) -> None:
    whole, *full = findings(child(FULL_CACHE, demo_bundle, cache=tmp_path / "cache"))
    assert whole["seen"] >= 2
    for one in full:
        assert one["pixels"] == pytest.approx(whole["pixels"], abs=2), one  # it may be the other backend


def test_the_masks_of_a_full_disk_and_of_an_empty_one_are_the_same(demo_bundle: Path, tmp_path: Path) -> None:
    """What is kept after a full disk is whole: the same bytes as without one."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0.png").write_bytes(png_bytes(phantom_frame(0, (SIDE, SIDE)).frame))
    (tmp_path / "in" / "1.png").write_bytes(png_bytes(phantom_frame(1, (SIDE, SIDE)).frame))
    code = (
        FULL_DISK + "from breastseg_deploy.cli.main import main\n"
        "disk.begin(sys.argv[1], int(sys.argv[2])); sys.exit(main(sys.argv[3:]))"
    )
    for name, at in (("whole", 99), ("full", 4)):
        words = ("segment", demo_bundle, tmp_path / "in", "--output", tmp_path / name, "--backend", "onnxruntime")
        child(code, tmp_path / name, at, *words, cache=tmp_path / "cache")
    kept = sorted((tmp_path / "full").glob("*.png"))
    assert kept
    for mask in kept:
        np.testing.assert_array_equal(read_mask(mask), read_mask(tmp_path / "whole" / mask.name))
