"""The folder of engines: whose it must be, and what is never read from it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from breastseg_deploy.engines.private import CACHE_VARIABLE, PrivateFolder, cache_place
from breastseg_deploy.errors import MachineError, OutputError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_place_is_the_variable_else_the_users_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
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
    with pytest.raises(OutputError, match=rf"cannot make the engine cache .*not a directory; .* in {CACHE_VARIABLE}"):
        PrivateFolder.open(tmp_path / "file" / "cache")
