"""Files that are there whole or not at all: full disks, Ctrl-C, rivals."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from left_behind import names

from breastseg_deploy.errors import OutputError
from breastseg_deploy.storage import (
    check_output_file,
    check_place,
    clear_partials,
    file_written_whole,
    make_folder,
    write_whole,
)

FULL_DISK = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); " + (
    "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); "
)
"""What a child process runs first so that no file of it grows over 1000 bytes."""


def write_half(place: Path, error: BaseException) -> None:
    """Write half of a file that grows in pieces, and fail."""
    with file_written_whole(place) as growing:
        growing.write_bytes(b"half of it")
        raise error


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_file_is_written(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.bin", b"content")
    assert (tmp_path / "a.bin").read_bytes() == b"content"
    assert names(tmp_path) == {"a.bin"}


@pytest.mark.parametrize(("private", "mode"), [(True, 0o600), (False, 0o644)])
def test_private_file_is_the_users_alone_and_others_follow_the_umask(tmp_path: Path, private: bool, mode: int) -> None:
    before = os.umask(0o022)
    try:
        write_whole(tmp_path / "file", b"content", private=private)
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode


def test_file_replaces_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"an old and longer content")
    write_whole(tmp_path / "a.bin", b"new")
    assert (tmp_path / "a.bin").read_bytes() == b"new"


def test_full_disk_leaves_the_old_file_and_no_partial_one(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    said = run_python(
        FULL_DISK + "from pathlib import Path; from breastseg_deploy.errors import OutputError\n"
        "from breastseg_deploy.storage import write_whole\n"
        f"try: write_whole(Path({str(target)!r}), bytes(5000))\n"
        "except OutputError as err: print(err)"
    )
    assert (
        said
        == f"cannot write {target}: file too large; nothing was left half-written: make room or choose another place"
    )
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == {"a.bin"}


@pytest.mark.parametrize("character", ["a", "\N{CJK UNIFIED IDEOGRAPH-7D30}", "\N{MICROSCOPE}"])
def test_a_name_as_long_as_a_name_may_be_is_written_and_its_partial_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, character: str
) -> None:
    name = character * (255 // len(character.encode()))
    under_way: set[str] = set()
    monkeypatch.setattr(os, "fsync", lambda _descriptor: under_way.update(names(tmp_path)))
    write_whole(tmp_path / name, b"content")
    assert names(tmp_path) == {name}
    (partial,) = under_way
    (tmp_path / partial).write_bytes(b"half")
    os.utime(tmp_path / partial, (0, 0))
    clear_partials(tmp_path)
    assert names(tmp_path) == {name}


def test_interrupted_write_leaves_the_old_file_and_no_partial_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ctrl_c(_descriptor: int) -> None:
        raise KeyboardInterrupt

    (tmp_path / "a.bin").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "a.bin", b"new")
    assert (tmp_path / "a.bin").read_bytes() == b"old"
    assert names(tmp_path) == {"a.bin"}


def test_file_that_grows_in_pieces_takes_its_place_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"old")
    with file_written_whole(tmp_path / "a.bin") as growing, growing.open("wb") as file:
        file.write(b"a first ")
        assert (tmp_path / "a.bin").read_bytes() == b"old"
        file.write(b"and a second piece")
    assert (tmp_path / "a.bin").read_bytes() == b"a first and a second piece"
    assert names(tmp_path) == {"a.bin"}


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (ValueError("no cell"), ValueError),
        (OSError(28, "No space left on device"), OutputError),
    ],
)
def test_file_that_stops_growing_leaves_the_old_one_and_no_partial_one(
    tmp_path: Path, error: BaseException, raised: type[BaseException]
) -> None:
    (tmp_path / "a.bin").write_bytes(b"old")
    with pytest.raises(raised):
        write_half(tmp_path / "a.bin", error)
    assert (tmp_path / "a.bin").read_bytes() == b"old"
    assert names(tmp_path) == {"a.bin"}


def test_what_a_killed_process_left_of_a_file_goes_away_after_an_hour_and_nothing_else(tmp_path: Path) -> None:
    old = time.time() - 4000
    for name in (".a.png.0123abcd.partial", ".b.0123abcd.partial", "c.0123abcd.partial", ".d.png.partial", "e.png"):
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (old, old))
    (tmp_path / ".folder.0123abcd.partial").mkdir()
    (tmp_path / ".young.0123abcd.partial").write_bytes(b"half")
    clear_partials(tmp_path)
    kept = {"c.0123abcd.partial", ".d.png.partial", "e.png", ".folder.0123abcd.partial", ".young.0123abcd.partial"}
    assert names(tmp_path) == kept
    clear_partials(tmp_path / "missing")


def test_file_below_a_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"cannot write .*file/a.bin: not a directory") as refusal:
        write_whole(tmp_path / "file" / "a.bin", b"x")
    assert "\n" not in str(refusal.value)


def test_file_in_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write .*: no such file or directory"):
        write_whole(tmp_path / "missing" / "a.bin", b"x")


def test_file_in_the_place_of_a_folder_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*/a: is a directory"):
        write_whole(tmp_path / "a", b"x")
    assert names(tmp_path) == {"a"}


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a file system that takes no files: /proc")
def test_read_only_place_is_refused() -> None:
    with pytest.raises(OutputError, match=r"cannot write /proc/a.bin: "):
        write_whole(Path("/proc/a.bin"), b"x")
    with pytest.raises(OutputError, match=r"cannot make the folder /proc/a: .*; choose another --output"):
        make_folder(Path("/proc/a"))


def test_link_is_replaced_and_what_it_pointed_to_stays(tmp_path: Path) -> None:
    (tmp_path / "frame.png").write_bytes(b"frame")
    (tmp_path / "mask.png").symlink_to(tmp_path / "frame.png")
    write_whole(tmp_path / "mask.png", b"mask")
    assert (tmp_path / "frame.png").read_bytes() == b"frame"
    assert not (tmp_path / "mask.png").is_symlink()


def test_readers_see_the_old_file_or_the_new_one_and_nothing_between(tmp_path: Path) -> None:
    target, contents = tmp_path / "a.bin", {bytes([n]) * 200_000 for n in range(4)}
    write_whole(target, min(contents))
    seen: set[bytes] = set()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.add(target.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for content in sorted(contents) * 5:
        write_whole(target, content)
    stop.set()
    reader.join()
    assert seen <= contents


def test_a_place_that_takes_no_file_is_refused_and_one_that_does_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    check_place(tmp_path / "file")
    check_place(tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"
    for place, why in (
        (tmp_path, "it is a folder"),
        (tmp_path / "a" / "b", "no such file"),
        (tmp_path / "file" / "b", "not a d"),
    ):
        with pytest.raises(OutputError, match=why):
            check_place(place)


def test_an_output_file_is_checked_before_long_work(tmp_path: Path) -> None:
    check_output_file(tmp_path / "new" / "file")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="exists and may be in use"):
        check_output_file(tmp_path / "file")
    with pytest.raises(OutputError, match="cannot make the folder"):
        check_output_file(tmp_path / "file" / "below")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="exists and may be in use"):
        check_output_file(tmp_path / "link")
