"""Folders that are there whole or not at all: interrupts, rivals, the working folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from left_behind import names

from breastseg_deploy.errors import OutputError
from breastseg_deploy.storage import (
    check_output_folder,
    folder_written_whole,
    make_folder,
)


def write_folder(place: Path, *, force: bool, error: BaseException | None = None) -> None:
    """Write a folder with the one file "new", and fail with `error` after that where there is one."""
    with folder_written_whole(place, force=force) as folder:
        (folder / "new").write_bytes(b"new")
        if error is not None:
            raise error


def write_folder_beside_a_rival(place: Path) -> None:
    with folder_written_whole(place, force=False) as folder:
        (folder / "mine").write_bytes(b"")
        with folder_written_whole(place, force=False) as other:
            (other / "rivals").write_bytes(b"")


def test_missing_and_empty_output_folders_pass(tmp_path: Path) -> None:
    check_output_folder(tmp_path / "missing", force=False)
    check_output_folder(tmp_path, force=False)


def test_failure_removes_the_parents_it_made_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    with pytest.raises(ValueError, match="stop"), folder_written_whole(tmp_path / "old/new/deep/b", force=False):
        raise ValueError("stop")
    assert [path.name for path in tmp_path.rglob("*")] == ["old"]
    with folder_written_whole(tmp_path / "old/new/deep/b", force=False):
        pass
    assert (tmp_path / "old/new/deep/b").is_dir()


def test_output_folder_that_is_not_empty_needs_force(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(OutputError, match="is not empty; empty it, choose another, or pass --force"):
        check_output_folder(tmp_path, force=False)
    check_output_folder(tmp_path, force=True)


@pytest.mark.parametrize("force", [False, True])
def test_output_that_is_a_file_or_a_link_is_refused_even_with_force(tmp_path: Path, force: bool) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    for name in ("file", "link"):
        with pytest.raises(OutputError, match="must be a folder or not exist yet, got a file or link; choose another"):
            check_output_folder(tmp_path / name, force=force)


def test_output_with_a_name_too_long_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="file name too long; choose another --output"):
        check_output_folder(tmp_path / ("a" * 300), force=False)


def test_folder_appears_with_all_its_files(tmp_path: Path) -> None:
    place = tmp_path / "new" / "bundle"
    with folder_written_whole(place, force=False) as folder:
        (folder / "a").write_bytes(b"1")
        assert not place.exists()
    assert names(place) == {"a"}
    assert names(place.parent) == {"bundle"}


def test_folder_takes_the_place_of_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    with folder_written_whole(tmp_path / "bundle", force=False) as folder:
        (folder / "a").write_bytes(b"1")
    assert names(tmp_path / "bundle") == {"a"}
    assert names(tmp_path) == {"bundle"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_failure_leaves_no_folder(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error):
        write_folder(tmp_path / "bundle", force=False, error=error())
    assert names(tmp_path) == set()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failure_with_force_leaves_the_old_folder(tmp_path: Path, error: type[BaseException]) -> None:
    place = tmp_path / "bundle"
    place.mkdir()
    (place / "old").write_bytes(b"old")
    with pytest.raises(error):
        write_folder(place, force=True, error=error())
    assert names(place) == {"old"}
    assert names(tmp_path) == {"bundle"}


def test_operating_system_errors_become_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        OutputError, match=r"cannot write .*bundle: no space left on device; nothing was left half-written"
    ):
        write_folder(tmp_path / "bundle", force=False, error=OSError(28, "No space left on device"))
    assert names(tmp_path) == set()


def test_force_replaces_the_old_folder_which_stays_until_the_new_one_is_ready(tmp_path: Path) -> None:
    place = tmp_path / "bundle"
    place.mkdir()
    (place / "old").write_bytes(b"old")
    with folder_written_whole(place, force=True) as folder:
        (folder / "new").write_bytes(b"new")
        assert names(place) == {"old"}
    assert names(place) == {"new"}
    assert names(tmp_path) == {"bundle"}


def test_ctrl_c_between_the_two_renames_brings_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, rename = tmp_path / "bundle", Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if self.parent.suffix == ".partial":
            raise KeyboardInterrupt
        return rename(self, target)

    place.mkdir()
    (place / "old").write_bytes(b"old")
    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_folder(place, force=True)
    assert names(place) == {"old"}
    assert names(tmp_path) == {"bundle"}


def test_a_rival_that_was_faster_keeps_its_folder(tmp_path: Path) -> None:
    place = tmp_path / "bundle"
    with pytest.raises(OutputError, match="is not empty; empty it, choose another, or pass --force"):
        write_folder_beside_a_rival(place)
    assert names(place) == {"rivals"}
    assert names(tmp_path) == {"bundle"}


@pytest.mark.parametrize("force", [False, True])
def test_of_many_processes_at_once_each_wins_whole_or_not_at_all(tmp_path: Path, force: bool) -> None:
    place = tmp_path / "bundle"
    code = (
        "import sys; from pathlib import Path; from breastseg_deploy.errors import OutputError\n"
        "from breastseg_deploy.storage import folder_written_whole\n"
        f"for turn in range({20 if force else 1}):\n"
        "    try:\n"
        f"        with folder_written_whole(Path({str(place)!r}), force={force}) as folder:\n"
        "            for n in range(5): (folder / f'{n}').write_text(sys.argv[1])\n"
        "    except OutputError: pass\n"
    )
    rivals = [subprocess.Popen([sys.executable, "-c", code, str(n)], stderr=subprocess.PIPE) for n in range(4)]
    complaints = [rival.communicate()[1] for rival in rivals]
    assert complaints == [b""] * 4
    assert names(tmp_path) == {"bundle"}
    assert names(place) == {"0", "1", "2", "3", "4"}
    assert len({path.read_text() for path in place.iterdir()}) == 1


@pytest.mark.parametrize("name", [".", "..", "/"])
def test_the_working_folder_and_those_above_it_are_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "precious").write_bytes(b"")
    monkeypatch.chdir(inner)
    with (
        pytest.raises(
            OutputError, match="is the working folder or holds it and cannot be replaced; choose a folder inside"
        ),
        folder_written_whole(Path(name), force=True),
    ):
        pytest.fail("a folder was handed out")
    assert names(tmp_path) == {"inner", "precious"}


def test_folder_is_made_with_its_parents_and_may_exist(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"cannot make the folder .*: not a directory; choose another --output"):
        make_folder(tmp_path / "file" / "a")
