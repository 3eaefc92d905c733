"""What was found out on this machine: kept, found again, and never mixed up."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from breastseg_deploy import MachineError
from breastseg_deploy.backends.findings import Findings
from breastseg_deploy.errors import OutputError

PLACE = Findings("speed", {"engine": "1.0", "processor": "a"})


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("BREASTSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_was_kept_is_found_again_whatever_the_order_of_what_it_hangs_on() -> None:
    assert PLACE.recall() is None
    PLACE.keep({"seconds": 0.5})
    assert Findings("speed", {"processor": "a", "engine": "1.0"}).recall() == {"seconds": 0.5}


@pytest.mark.parametrize(
    "other",
    [
        Findings("speed", {"engine": "1.1", "processor": "a"}),
        Findings("speed", {"engine": "1.0"}),
        Findings("verdict", PLACE.hangs_on),
    ],
)
def test_nothing_is_found_under_anything_else(other: Findings) -> None:
    PLACE.keep({"seconds": 0.5})
    assert other.recall() is None


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"found": {}, "hangs_on": {}}', b"\xff", b'{"found": 1'])
def test_a_damaged_finding_is_none_and_can_be_kept_again(cache: Path, content: bytes) -> None:
    PLACE.keep({"seconds": 0.5})
    (file,) = cache.iterdir()
    file.write_bytes(content)
    assert PLACE.recall() is None
    PLACE.keep({"seconds": 0.7})
    assert PLACE.recall() == {"seconds": 0.7}


def test_the_file_is_the_users_alone_and_says_what_it_hangs_on(cache: Path) -> None:
    PLACE.keep({"seconds": 0.5})
    (file,) = cache.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_text())["hangs_on"] == PLACE.hangs_on


def test_a_folder_that_cannot_be_used_is_an_error(cache: Path) -> None:
    cache.mkdir()
    cache.chmod(0o777)
    with pytest.raises(MachineError, match="others may write to"):
        PLACE.recall()
    cache.rmdir()
    cache.write_text("a file in the folder's place")
    with pytest.raises(OutputError, match="cannot make the engine cache"):
        PLACE.keep({})
