"""What killed processes leave beside an output is removed, and what living ones fill is not."""

from __future__ import annotations

import errno
import logging
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from breastseg_deploy.storage import folder_written_whole
from breastseg_deploy.unfinished import Release, unfinished_folder

FILL = """
import sys
from pathlib import Path
from breastseg_deploy.storage import folder_written_whole
with folder_written_whole(Path(sys.argv[1]), force=True) as folder:
    (folder / "a").write_bytes(bytes(1000))
    print(folder, flush=True)
    sys.stdin.read()
"""


@contextmanager
def exporter(place: Path) -> Generator[tuple[subprocess.Popen[str], Path]]:
    """Another process in the middle of writing `place`, and the folder that it fills."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", FILL, str(place)], stdin=pipe, stdout=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def leave_behind(place: Path) -> Path:
    """Kill a process while it writes `place`; the hidden folder that it leaves."""
    with exporter(place) as (process, content):
        process.kill()
    assert (content / "a").exists()
    return content.parent


def write(place: Path) -> None:
    with folder_written_whole(place, force=True) as folder:
        (folder / "new").write_bytes(b"new")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_a_killed_process_left_is_removed_by_the_next_output_to_that_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left = leave_behind(tmp_path / "bundle")
    with caplog.at_level(logging.INFO, "breastseg_deploy"):
        write(tmp_path / "bundle")
    assert names(tmp_path) == {"bundle"}
    assert names(tmp_path / "bundle") == {"new"}
    assert f"removed {left}: the process that filled it is gone" in caplog.text


def test_a_living_process_keeps_its_folder_and_finishes(tmp_path: Path) -> None:
    with exporter(tmp_path / "bundle") as (other, content):
        write(tmp_path / "bundle")
        assert names(content) == {"a"}
        assert names(tmp_path / "bundle") == {"new"}
        other.communicate("")
        assert other.returncode == 0
    assert names(tmp_path / "bundle") == {"a"}
    assert names(tmp_path) == {"bundle"}


def test_another_thread_of_this_process_keeps_its_folder(tmp_path: Path) -> None:
    with unfinished_folder(tmp_path / "bundle") as mine:
        write(tmp_path / "bundle")
        assert mine.is_dir()


@pytest.mark.parametrize("other", ["bundle.rejected", "bundles", "my.bundle"])
def test_what_was_left_for_another_place_stays(tmp_path: Path, other: str) -> None:
    left = leave_behind(tmp_path / other)
    write(tmp_path / "bundle")
    assert names(tmp_path) == {"bundle", left.name}


def test_what_a_process_of_another_host_left_stays(tmp_path: Path) -> None:
    """Its lock may not reach us over the network, so a free one proves nothing."""
    left = leave_behind(tmp_path / "bundle")
    (left / "host").write_text("another-host")
    write(tmp_path / "bundle")
    assert names(tmp_path) == {"bundle", left.name}


def test_a_folder_of_that_name_that_holds_no_lock_stays(tmp_path: Path) -> None:
    left = tmp_path / ".bundle.0123abcd.partial"
    left.mkdir()
    (left / "precious").write_bytes(b"")
    write(tmp_path / "bundle")
    assert names(left) == {"precious"}


def test_a_process_killed_before_it_had_a_lock_leaves_nothing_for_good(tmp_path: Path) -> None:
    (tmp_path / ".bundle.0123abcd.partial").mkdir()
    write(tmp_path / "bundle")
    assert names(tmp_path) == {"bundle"}


def test_a_link_of_that_name_is_not_followed(tmp_path: Path) -> None:
    left = leave_behind(tmp_path / "bundle")
    moved = left.rename(tmp_path / "elsewhere")
    left.symlink_to(moved)
    write(tmp_path / "bundle")
    assert {"content", "host"} <= names(moved)


def test_without_locks_outputs_are_written_and_nothing_is_removed(tmp_path: Path) -> None:
    def no_locks(_: Path) -> Release | None:
        raise OSError(errno.ENOLCK, "No locks available")

    left = leave_behind(tmp_path / "bundle")
    with unfinished_folder(tmp_path / "bundle", no_locks) as content:
        unlocked = content.parent
        (content / "a").write_bytes(b"")
        assert left.is_dir()
        with unfinished_folder(tmp_path / "bundle"):  # one that can lock, and has no evidence against the other
            assert unlocked.is_dir()
            assert not left.exists()
    assert names(tmp_path) == set()


def test_a_process_whose_new_folder_was_looked_at_by_another_takes_a_second_one(tmp_path: Path) -> None:
    answers = iter([None, lambda: None])
    with unfinished_folder(tmp_path / "bundle", lambda _: next(answers)) as content:
        assert content.is_dir()
    assert names(tmp_path) == set()
    assert next(answers, None) is None
