"""What has passed, or was measured, on this machine: kept, found again, and never mixed up; and whose folder it is."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path

import pytest

from breastseg_deploy import Machine, MachineError, OutputError
from breastseg_deploy.machine import CACHE_VARIABLE, cache_place
from breastseg_deploy.verdicts import PrivateFolder, VerdictKey, Verdicts

KEY = VerdictKey("speed", {"engine": "1.0", "processor": "a"})


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def verdicts(cache: Path) -> Verdicts:
    return Verdicts(Machine(cache=cache))


def test_what_was_recorded_is_recalled_whatever_the_order_of_what_it_depends_on(verdicts: Verdicts) -> None:
    assert verdicts.recall(KEY) is None
    verdicts.record(KEY, {"seconds": 0.5})
    assert verdicts.recall(VerdictKey("speed", {"processor": "a", "engine": "1.0"})) == {"seconds": 0.5}


@pytest.mark.parametrize(
    "other",
    [
        VerdictKey("speed", {"engine": "1.1", "processor": "a"}),
        VerdictKey("speed", {"engine": "1.0"}),
        VerdictKey("verdict", KEY.depends_on),
    ],
)
def test_nothing_is_recalled_by_another_key(verdicts: Verdicts, other: VerdictKey) -> None:
    verdicts.record(KEY, {"seconds": 0.5})
    assert verdicts.recall(other) is None


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"figures": {}, "depends_on": {}}', b"\xff", b'{"figures": 1']
)
def test_a_damaged_record_is_none_and_can_be_written_again(verdicts: Verdicts, cache: Path, content: bytes) -> None:
    verdicts.record(KEY, {"seconds": 0.5})
    (file,) = cache.iterdir()
    file.write_bytes(content)
    assert verdicts.recall(KEY) is None
    verdicts.record(KEY, {"seconds": 0.7})
    assert verdicts.recall(KEY) == {"seconds": 0.7}


def test_the_record_is_the_users_alone_and_says_what_it_depends_on(verdicts: Verdicts, cache: Path) -> None:
    verdicts.record(KEY, {"seconds": 0.5})
    (file,) = cache.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_text())["depends_on"] == KEY.depends_on


def test_a_folder_that_cannot_be_used_is_an_error(verdicts: Verdicts, cache: Path) -> None:
    cache.mkdir()
    cache.chmod(0o777)
    with pytest.raises(MachineError, match="others may write to"):
        verdicts.recall(KEY)
    cache.rmdir()
    cache.write_text("a file in the folder's place")
    with pytest.raises(OutputError, match="cannot make the cache folder"):
        verdicts.record(KEY, {})


def test_a_lock_is_waited_for_and_the_waiting_is_told_once(tmp_path: Path) -> None:
    folder, told, order = PrivateFolder.open(tmp_path / "f"), threading.Event(), []

    def second() -> None:
        with folder.locked("a.lock", told.set):
            order.append("second")

    with folder.locked("a.lock", lambda: pytest.fail("nobody holds it")):
        thread = threading.Thread(target=second)
        thread.start()
        assert told.wait(10)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert mode(folder.path / "a.lock") == 0o600


def test_a_folder_that_cannot_be_locked_is_an_error(tmp_path: Path) -> None:
    folder = PrivateFolder.open(tmp_path / "f")
    (folder.path / "a.lock").mkdir()
    with pytest.raises(OutputError, match=rf"cannot lock .*a\.lock: .*; name another folder in {CACHE_VARIABLE}"):
        folder.locked("a.lock", lambda: None).__enter__()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_place_is_the_variable_else_the_users_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(cache))
    assert cache_place() == cache
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_place() == tmp_path / "xdg" / "breastseg"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert cache_place() == tmp_path / "home" / ".cache" / "breastseg"


def test_folder_and_files_are_the_users_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        folder = PrivateFolder.open(tmp_path / "deep" / "folder")
        folder.write("a.plan", b"code")
    finally:
        os.umask(before)
    assert mode(folder.path) == 0o700
    assert mode(folder.path / "a.plan") == 0o600
    assert folder.read("a.plan") == b"code"


def test_what_is_not_there_is_none_and_can_be_removed(tmp_path: Path) -> None:
    folder = PrivateFolder.open(tmp_path / "f")
    assert folder.read("missing") is None
    folder.remove("missing")


@pytest.mark.parametrize("bits", [0o720, 0o702, 0o777])
def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path, bits: int) -> None:
    place = tmp_path / "open"
    place.mkdir()
    place.chmod(bits)
    with pytest.raises(MachineError, match=rf"others may write to {place} \(mode 0{bits:o}\).*chmod go-w '{place}'"):
        PrivateFolder.open(place)


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "theirs"
    place.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: place.stat().st_uid + 1)
    with pytest.raises(MachineError, match=rf"{place} belongs to another user .*{CACHE_VARIABLE}=DIR"):
        PrivateFolder.open(place)


def test_a_file_that_others_may_write_to_is_never_read(tmp_path: Path) -> None:
    folder = PrivateFolder.open(tmp_path / "f")
    folder.write("a.plan", b"code")
    (folder.path / "a.plan").chmod(0o622)
    with pytest.raises(MachineError, match=r"others may write to .*a\.plan \(mode 0622\)"):
        folder.read("a.plan")


def test_a_link_is_never_followed(tmp_path: Path) -> None:
    folder = PrivateFolder.open(tmp_path / "f")
    (tmp_path / "elsewhere").write_bytes(b"code")
    (folder.path / "a.plan").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MachineError, match=r"cannot read .*a\.plan: .*; remove it"):
        folder.read("a.plan")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    folder = PrivateFolder.open(tmp_path / "f")
    os.mkfifo(folder.path / "a.plan", 0o600)
    with pytest.raises(MachineError, match=r"a\.plan must be a regular file"):
        folder.read("a.plan")


def test_a_place_that_cannot_be_made_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError, match=rf"cannot make the cache folder .*not a directory; .* in {CACHE_VARIABLE}"):
        PrivateFolder.open(tmp_path / "file" / "cache")
