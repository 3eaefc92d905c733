"""Two at once, a bundle that changes under an open Segmenter, caches that vanish or are not ours, too little memory."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from plant import child, findings

from breastseg_benchmark.kill import export_victim
from breastseg_deploy import BundleError, Segmenter
from breastseg_deploy.bundle import Bundle
from breastseg_deploy.machine import Machine
from breastseg_deploy.phantom import phantom_frame

FRAME = phantom_frame(0, (128, 128)).frame


def test_of_two_exports_to_one_place_one_wins_whole_and_the_other_says_why(tmp_path: Path) -> None:
    victim = export_victim(tmp_path)
    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(lambda _: victim.run(victim.words), range(2)))
    codes = sorted(code for _, code, _ in ended)
    assert codes == [0, 1], ended
    loser = next(told for _, code, told in ended if code == 1)
    assert "is not empty" in loser.splitlines()[-1]
    assert Bundle.open(victim.output).manifest.encoder == "resnet18"
    assert victim.left_over() == []


OPENED = """
import json, sys
from breastseg_deploy import Segmenter
from breastseg_deploy.phantom import phantom_frame
with Segmenter.open(sys.argv[1]) as segment:
    mask = segment(phantom_frame(0, (128, 128)).frame).mask
    segment.self_test()
    print("found", json.dumps({"pixels": int(mask.sum())}))
"""


def test_two_that_open_at_once_with_an_empty_cache_both_serve(demo_bundle: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: child(OPENED, demo_bundle, cache=tmp_path / "cache"), range(2)))
    (first,), (second,) = map(findings, both)
    assert first["pixels"] == pytest.approx(second["pixels"], abs=2)
    (after,) = findings(child(OPENED, demo_bundle, cache=tmp_path / "cache"))
    assert after["pixels"] == pytest.approx(first["pixels"], abs=2)


CHANGED = """
import json, os, pathlib, sys
import numpy as np
from breastseg_deploy import Segmenter
from breastseg_deploy.phantom import phantom_frame
bundle, frame = pathlib.Path(sys.argv[1]), phantom_frame(0, (128, 128)).frame
with Segmenter.open(bundle, sys.argv[2]) as segment:
    before = segment(frame).mask
    for file in [path for path in bundle.rglob("*") if path.is_file()]:
        size = file.stat().st_size
        os.truncate(file, 0) if sys.argv[3] == "truncated" else file.write_bytes(bytes(size))  # in place
    same = [bool((segment(frame).mask == before).all()) for _ in range(3)]
    same.append(bool((segment.batch(np.stack([frame] * 3))[2].mask == before).all()))
    print("found", json.dumps({"same": same}))
"""


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("change", ["truncated", "overwritten"])
def test_a_bundle_that_changes_on_the_disk_changes_no_mask(bundle_copy: Path, backend: str, change: str) -> None:
    """In a process of its own: an engine that had mapped the file would be ended by SIGBUS."""
    done = child(CHANGED, bundle_copy, backend, change, cache=bundle_copy.parent / "cache")
    (found,) = findings(done)
    assert found["same"] == [True] * 4


def test_goldens_that_change_on_the_disk_are_noticed_by_the_self_test(bundle_copy: Path) -> None:
    with Segmenter.open(bundle_copy, "onnxruntime") as segment:
        golden = bundle_copy / next(iter(segment.manifest.goldens))
        golden.write_bytes(bytes(golden.stat().st_size))
        with pytest.raises(BundleError, match="was altered"):
            segment.self_test()
        assert segment(FRAME).mask.shape == FRAME.shape


def test_a_cache_that_vanishes_is_made_again(demo_bundle: Path, tmp_path: Path) -> None:
    machine = Machine(cache=tmp_path / "cache")
    with Segmenter.open(demo_bundle, machine=machine) as segment:
        expected = segment(FRAME).mask
        shutil.rmtree(tmp_path / "cache")
        np.testing.assert_array_equal(segment(FRAME).mask, expected)
    with Segmenter.open(demo_bundle, machine=machine) as segment:
        assert segment(FRAME).mask.shape == expected.shape
    assert list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("trouble", ["cannot be made", "a file in its place", "of another user", "read-only"])
def test_a_cache_that_cannot_be_used_is_said_and_a_cpu_serves(demo_bundle: Path, tmp_path: Path, trouble: str) -> None:
    cache = tmp_path / "cache"
    if trouble == "cannot be made":
        cache = Path("/proc/breastseg")
    elif trouble == "a file in its place":
        cache.write_bytes(b"")
    else:
        cache.mkdir()
    if trouble == "of another user":
        if os.geteuid() != 0:
            pytest.skip("only root may give a folder away")
        os.chown(cache, 12345, 12345)
    if trouble == "read-only":
        if os.geteuid() == 0:
            pytest.skip("nothing is read-only for root")
        cache.chmod(0o500)
    with Segmenter.open(demo_bundle, machine=Machine(cache=cache)) as segment:
        assert segment(FRAME).mask.shape == FRAME.shape
        assert str(cache) in segment.backend_reason


TOO_LITTLE_MEMORY = """
import json, pathlib, resource, sys
import numpy as np
from breastseg_deploy import BackendError, Delivered, Failed, Segmenter
from breastseg_deploy.phantom import phantom_frame

frame = phantom_frame(0, (128, 128)).frame
def grow_no_more():
    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 1_000_000, resource.RLIM_INFINITY))

with Segmenter.open(sys.argv[1], sys.argv[2]) as segment:
    before = segment(frame).mask
    grow_no_more()
    raised = None
    try:
        segment.batch([frame] * 400)
    except (BackendError, MemoryError) as err:
        raised = type(err).__name__
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    after = segment(frame).mask
    print("found", json.dumps({"raised": raised, "same": bool((before == after).all())}))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks Linux how much memory is mapped")
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_too_little_memory_is_an_error_of_that_call_and_the_next_one_succeeds(
    demo_bundle: Path, tmp_path: Path, backend: str
) -> None:
    (found,) = findings(child(TOO_LITTLE_MEMORY, demo_bundle, backend, cache=tmp_path / "cache"))
    assert found["raised"] in ("BackendError", "MemoryError")
    assert found["same"]
