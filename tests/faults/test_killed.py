"""Commands killed in the middle of their writing: all that is there is whole, and the next run goes on or starts anew.

`python -m breastseg_benchmark.kill` does the same at 30 random moments of each.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from plant import FULL_DISK, child

from breastseg_benchmark.kill import Victim, export_victim, segment_victim, train_victim
from breastseg_deploy.io.images import read_mask

LONG_S = 300


def kill_when(victim: Victim, moment: Callable[[], object], number: signal.Signals) -> None:
    child = victim.start(victim.words)
    deadline = time.monotonic() + LONG_S
    try:
        while not moment():
            assert child.poll() is None, child.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.002)
        child.send_signal(number)
    finally:
        if time.monotonic() >= deadline:
            child.kill()
        child.communicate(timeout=LONG_S)
    assert child.returncode in (-number, 128 + number)  # SIGTERM ends a command in order, with 143


def ends_well(victim: Victim) -> None:
    _, code, told = victim.run(victim.again())
    assert code == 0, told
    assert victim.problems() == []
    assert victim.left_over() == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_segment_run_leaves_whole_masks_and_goes_on(
    demo_bundle: Path, tmp_path: Path, number: signal.Signals
) -> None:
    victim = segment_victim(tmp_path, demo_bundle)
    kill_when(victim, lambda: len(list(victim.output.glob("*.png"))) >= 3, number)
    assert victim.problems() == []
    before = {path.name: read_mask(path) for path in victim.output.glob("*.png")}
    ends_well(victim)
    assert len(list(victim.output.glob("*.png"))) == 40
    assert all((read_mask(victim.output / name) == mask).all() for name, mask in before.items())


def test_an_export_killed_while_it_writes_leaves_no_bundle_and_the_next_one_clears_up(tmp_path: Path) -> None:
    victim = export_victim(tmp_path)
    code = FULL_DISK + "disk.kills = True; disk.begin(sys.argv.pop(1), 5); " + victim.code
    done = child(code, victim.output.parent, *victim.words, cache=tmp_path / "cache")
    assert done.returncode == -signal.SIGKILL
    assert not victim.output.exists()
    assert len(victim.left_over()) == 1
    ends_well(victim)


def test_a_training_goes_on_after_its_last_whole_epoch(tmp_path: Path) -> None:
    victim = train_victim(tmp_path)
    kill_when(victim, (victim.output / "resume.ckpt").exists, signal.SIGKILL)
    assert victim.problems() == []
    assert "--resume" in victim.again()
    ends_well(victim)
    assert len((victim.output / "metrics.csv").read_text().splitlines()) == 1 + 4
