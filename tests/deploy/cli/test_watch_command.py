"""`breastseg watch` as a service meets it: signals, counters for people and machines, restarts after a kill."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from breastseg_deploy.accounts import POLICIES, Accounts
from breastseg_deploy.cli.main import main
from breastseg_deploy.io.images import png_bytes, read_mask
from breastseg_deploy.phantom import phantom_frame

SIDE = 128
LONG_S = 60
HEED_SIGNALS = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from breastseg_deploy.cli.main import main; sys.exit(main(sys.argv[1:]))"
)
SAMPLE = re.compile(r'[a-z_]+(\{[a-z]+="[a-z0-9_.]+"\})? [0-9.]+')
"""A line of Prometheus's text format, as far as this project writes it."""


def put(folder: Path, *numbers: int) -> None:
    folder.mkdir(exist_ok=True)
    for number in numbers:
        (folder / f"{number}.png").write_bytes(png_bytes(phantom_frame(number % 10, (SIDE, SIDE)).frame))


def masks(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.png"))


def wait_for(done: Callable[[], object], child: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + LONG_S
    while not done():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def watching(bundle: Path, tmp_path: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    words = ["watch", str(bundle), str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--backend", "onnxruntime"]
    command = [sys.executable, "-c", HEED_SIGNALS, *words, *more]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def once(bundle: Path, tmp_path: Path, *more: str) -> int:
    words = ["watch", str(bundle), str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--backend", "onnxruntime"]
    return main([*words, "--once", *more])


def once_on_a_full_disk(bundle: Path, tmp_path: Path, most_bytes: int) -> subprocess.CompletedProcess[str]:
    """Watch where no file grows over so many bytes."""
    full = "import resource; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    full += f"resource.setrlimit(resource.RLIMIT_FSIZE, ({most_bytes}, {most_bytes})); "
    words = ["watch", str(bundle), str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--once"]
    command = [sys.executable, "-c", HEED_SIGNALS.replace("from", f"{full}from", 1), *words, "--backend", "onnxruntime"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=LONG_S)


def json_lines(text: str) -> Sequence[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0_and_its_counts_and_nothing_half_written(
    demo_bundle: Path, tmp_path: Path, number: signal.Signals
) -> None:
    put(tmp_path / "in", *range(60))
    with watching(demo_bundle, tmp_path, "--json") as child:
        wait_for(lambda: len(masks(tmp_path / "out")) >= 3, child)
        child.send_signal(number)
        out, err = child.communicate(timeout=LONG_S)
    assert (child.returncode, "Traceback" in err) == (0, False), err
    written = masks(tmp_path / "out")
    *events, counters = json_lines(out)
    assert counters["event"] == "counters"
    assert counters["files"]["mask"] == len(written) == len([one for one in events if one["event"] == "mask"])
    counts = counters["stream"]
    assert counts["submitted"] == counts["delivered"] == len(written)
    assert f"watch: {len(written)} masks, 0 there before" in err.splitlines()[-1]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*written, ".watch.lock"}


def test_killed_and_started_again_it_goes_on_and_makes_no_mask_twice(demo_bundle: Path, tmp_path: Path) -> None:
    put(tmp_path / "in", *range(30))
    with watching(demo_bundle, tmp_path) as child:
        wait_for(lambda: len(masks(tmp_path / "out")) >= 5, child)
        child.kill()
        child.communicate()
    before = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in masks(tmp_path / "out")}
    for name in before:
        assert read_mask(tmp_path / "out" / name).shape == (SIDE, SIDE)
    assert once(demo_bundle, tmp_path) == 0
    assert masks(tmp_path / "out") == masks(tmp_path / "in")
    assert before == {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in before}


def test_once_ends_when_every_frame_is_done_and_with_1_where_one_has_no_mask(
    demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "in", 0, 1)
    assert once(demo_bundle, tmp_path) == 0
    assert masks(tmp_path / "out") == ["0.png", "1.png"]
    (tmp_path / "in" / "bad.png").write_bytes(b"no image")
    capsys.readouterr()
    assert once(demo_bundle, tmp_path, "--json") == 1
    said = capsys.readouterr()
    *events, counters = json_lines(said.out)
    (unreadable,) = (one for one in events if one["event"] != "counters")
    assert unreadable["event"] == "unreadable"
    assert unreadable["error"].endswith("bad.png is damaged or no image; expected a complete PNG, TIFF or JPEG file")
    assert counters["files"] == {"mask": 0, "unreadable": 1, "failed": 0, "cannot_write": 0, "found_done": 2}
    assert said.err.count("bad.png") == 1


def test_the_metrics_file_is_what_prometheus_reads(demo_bundle: Path, tmp_path: Path) -> None:
    put(tmp_path / "in", 0, 1, 2)
    place = tmp_path / "breastseg.prom"
    assert once(demo_bundle, tmp_path, "--metrics-file", str(place)) == 0
    lines = place.read_text().splitlines()
    samples = [line for line in lines if not line.startswith("#")]
    assert all(SAMPLE.fullmatch(line) for line in samples), samples
    assert "breastseg_frames_delivered_total 3" in samples
    assert 'breastseg_files_total{outcome="mask"} 3' in samples
    assert "breastseg_latency_seconds_count 3" in samples
    typed = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert {re.sub(r"_(sum|count)$", "", re.split(r"[{ ]", line)[0]) for line in samples} <= typed


def test_every_reason_is_a_label_that_prometheus_takes() -> None:
    from breastseg_deploy.exposition import prometheus_text

    for policy in POLICIES:
        accounts = Accounts(policy, 1)
        for number in range(3):
            accounts.submit("frame", None, 5.0 + number, 5.0)
            accounts.submit("frame", None, 5.0, 5.0)
        samples = [line for line in prometheus_text(accounts.snapshot(), {}).splitlines() if not line.startswith("#")]
        assert all(SAMPLE.fullmatch(line) for line in samples), samples


def test_a_metrics_file_that_cannot_be_written_is_told_once_and_masks_are_made(
    demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "in", 0)
    assert once(demo_bundle, tmp_path, "--metrics-file", str(tmp_path / "missing" / "m.prom")) == 0
    assert masks(tmp_path / "out") == ["0.png"]
    assert capsys.readouterr().err.count("m.prom") == 1


def test_a_full_disk_ends_once_with_1(demo_bundle: Path, tmp_path: Path) -> None:
    put(tmp_path / "in", 0)
    done = once_on_a_full_disk(demo_bundle, tmp_path, 10)
    assert done.returncode == 1, done.stderr
    assert "0.png: file too large; nothing was left half-written" in done.stderr
    assert masks(tmp_path / "out") == []


def test_a_mask_that_does_not_fit_ends_once_with_1_though_the_others_do(demo_bundle: Path, tmp_path: Path) -> None:
    put(tmp_path / "in", 0, 1, 3)
    done = once_on_a_full_disk(demo_bundle, tmp_path, 600)  # an empty mask takes 334
    assert masks(tmp_path / "out") == ["1.png", "3.png"]
    assert done.returncode == 1, done.stderr


def test_two_watches_with_one_output_are_refused(
    demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "in", 0)
    with watching(demo_bundle, tmp_path) as child:
        wait_for(lambda: masks(tmp_path / "out"), child)
        assert once(demo_bundle, tmp_path) == 1
    assert "another `breastseg watch` writes to" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("folder", "output", "words"),
    [("in", "in", "would be taken for frames"), ("nowhere", "out", "there is no folder")],
)
def test_places_that_make_no_sense_are_refused_before_anything_is_opened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], folder: str, output: str, words: str
) -> None:
    (tmp_path / "in").mkdir()
    assert main(["watch", "no-bundle", str(tmp_path / folder), "--output", str(tmp_path / output)]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
