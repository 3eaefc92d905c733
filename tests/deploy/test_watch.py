"""A watched folder: files that are still being written, that are no frames, that change, and a disk that is full."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from breastseg_deploy import ClosedError, Segmenter
from breastseg_deploy.io.images import png_bytes, read_mask
from breastseg_deploy.io.png_text import text_of, with_text
from breastseg_deploy.phantom import phantom_frame
from breastseg_deploy.watch import MADE_OF, SETTLE_S, News, Watch

SIDE = 128
STEPS = 400


def png(number: int) -> bytes:
    return png_bytes(phantom_frame(number, (SIDE, SIDE)).frame)


@pytest.fixture(scope="module")
def segmenter(demo_bundle: Path) -> Iterator[Segmenter]:
    with Segmenter.open(demo_bundle, "onnxruntime") as opened:
        yield opened


class Desk:
    """A watch over tmp_path/in with a clock of its own, which moves on by what a step would wait."""

    def __init__(self, segmenter: Segmenter, tmp_path: Path) -> None:
        self.now = 100.0
        self.news: list[News] = []
        self.place, self.output = tmp_path / "in", tmp_path / "out"
        self.place.mkdir(exist_ok=True)
        self.output.mkdir(exist_ok=True)
        self.segmenter = segmenter
        self.watch = self.restarted()

    def restarted(self) -> Watch:
        return Watch(
            self.segmenter, self.place, self.output, tell=self.news.append, clock=lambda: self.now, poll_s=0.01
        )

    def step_until(self, done: Callable[[], object]) -> None:
        for _ in range(STEPS):
            if done():
                return
            self.watch.step()
            self.now += 0.05
        raise AssertionError(f"not done after {STEPS} steps: {self.news}")

    def rest(self) -> None:
        self.watch.step()
        self.step_until(lambda: self.watch.rests)

    def kinds(self) -> list[str]:
        return [one.kind for one in self.news]


@pytest.fixture
def desk(segmenter: Segmenter, tmp_path: Path) -> Iterator[Desk]:
    made = Desk(segmenter, tmp_path)
    yield made
    made.watch.close()


def test_what_is_there_and_what_comes_gets_one_mask_each(desk: Desk, segmenter: Segmenter) -> None:
    for number in range(6):
        (desk.place / f"{number}.png").write_bytes(png(number))
    desk.rest()
    (desk.place / "6.png").write_bytes(png(6))
    desk.rest()
    assert sorted(path.name for path in desk.output.iterdir()) == [f"{number}.png" for number in range(7)]
    assert desk.kinds() == ["mask"] * 7
    for number in range(7):
        expected = segmenter(phantom_frame(number, (SIDE, SIDE)).frame).mask
        np.testing.assert_array_equal(read_mask(desk.output / f"{number}.png"), expected)
    assert all(one.age_s is not None and one.age_s >= 0 for one in desk.news)


def test_a_file_that_grows_is_taken_when_it_is_whole(desk: Desk) -> None:
    whole = png(0)
    with (desk.place / "a.png").open("wb") as file:
        for start in range(0, len(whole), len(whole) // 6 + 1):
            file.write(whole[start : start + len(whole) // 6 + 1])
            file.flush()
            for _ in range(3):  # a pause between two writes, longer than one between two looks
                desk.watch.step()
                desk.now += 0.5
            assert desk.news == [] or desk.kinds() == ["mask"]
    desk.rest()
    assert desk.kinds() == ["mask"]


def test_a_writer_that_pauses_longer_is_called_unreadable_once_and_its_frame_is_taken_all_the_same(desk: Desk) -> None:
    whole = png(0)
    (desk.place / "a.png").write_bytes(whole[: len(whole) // 2])
    desk.step_until(lambda: desk.news)
    assert desk.now >= 100 + SETTLE_S
    desk.step_until(lambda: desk.watch.rests)
    (desk.place / "a.png").write_bytes(whole)
    desk.rest()
    assert desk.kinds() == ["unreadable", "mask"]


def test_unreadable_files_are_reported_once_and_stop_nothing(desk: Desk) -> None:
    (desk.place / "a.png").write_bytes(b"no image")
    (desk.place / "b.png").write_bytes(png_bytes(np.zeros((64, 64), np.uint8)))
    (desk.place / "c.png").write_bytes(png(0))
    desk.rest()
    for _ in range(20):
        desk.watch.step()
        desk.now += 1
    assert sorted(desk.kinds()) == ["mask", "unreadable", "unreadable"]
    errors = " ".join(one.error or "" for one in desk.news)
    assert "a.png is damaged or no image" in errors
    assert "b.png: a frame is" in errors


def test_other_files_hidden_files_and_folders_are_passed_over(desk: Desk) -> None:
    (desk.place / "notes.txt").write_text("x")
    (desk.place / ".a.png.partial").write_bytes(png(0))
    (desk.place / ".b.png").write_bytes(png(0))
    (desk.place / "c.png").mkdir()
    (desk.place / "d.png").symlink_to(desk.place / "nowhere.png")
    desk.rest()
    assert desk.news == []


def test_a_frame_that_is_replaced_gets_a_new_mask(desk: Desk, segmenter: Segmenter) -> None:
    (desk.place / "a.png").write_bytes(png(0))
    desk.rest()
    (desk.place / "new").write_bytes(png(1))
    (desk.place / "new").replace(desk.place / "a.png")
    desk.rest()
    assert desk.kinds() == ["mask", "mask"]
    np.testing.assert_array_equal(
        read_mask(desk.output / "a.png"), segmenter(phantom_frame(1, (SIDE, SIDE)).frame).mask
    )


def test_after_a_restart_nothing_is_done_twice(desk: Desk) -> None:
    for number in range(3):
        (desk.place / f"{number}.png").write_bytes(png(number))
    desk.rest()
    desk.watch.close()
    desk.watch = desk.restarted()
    (desk.place / "3.png").write_bytes(png(3))
    desk.rest()
    assert len(desk.news) == 4
    assert desk.news[-1].frame == desk.place / "3.png"
    assert desk.watch.snapshot()[1]["found_done"] == 3


def test_a_frame_that_was_replaced_between_two_runs_is_done_again(desk: Desk) -> None:
    (desk.place / "a.png").write_bytes(png(0))
    desk.rest()
    desk.watch.close()
    (desk.place / "a.png").write_bytes(png(1))
    desk.watch = desk.restarted()
    desk.rest()
    assert desk.kinds() == ["mask", "mask"]


def test_a_file_of_others_in_the_masks_place_stays(desk: Desk) -> None:
    (desk.place / "a.png").write_bytes(png(0))
    (desk.output / "a.png").write_bytes(b"a truth that somebody drew")
    desk.rest()
    assert desk.kinds() == ["failed"]
    assert "is there already and no mask of `breastseg watch`" in str(desk.news[0].error)
    assert (desk.output / "a.png").read_bytes() == b"a truth that somebody drew"


def test_the_mask_of_another_frame_is_not_replaced(desk: Desk) -> None:
    (desk.place / "a.png").write_bytes(png(0))
    desk.rest()
    (desk.place / "a.tif").write_bytes(png(1))
    desk.rest()
    assert desk.kinds() == ["mask", "failed"]
    assert "is the mask of a.png; give one of the two frames another name" in str(desk.news[1].error)


def test_of_two_frames_of_one_name_that_come_together_one_gets_the_mask_and_the_other_fails(desk: Desk) -> None:
    (desk.place / "a.png").write_bytes(png(0))
    (desk.place / "a.tif").write_bytes(png(1))
    desk.rest()
    assert desk.kinds() == ["mask", "failed"]
    assert "is the mask of a.png; give one of the two frames another name" in str(desk.news[1].error)
    assert str(text_of(desk.output / "a.png", MADE_OF)).startswith("a.png: ")


def test_a_full_disk_is_told_once_and_the_masks_are_written_when_there_is_room(desk: Desk) -> None:
    for number in range(3):
        (desk.place / f"{number}.png").write_bytes(png(number))
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1][1]))
    try:
        desk.step_until(lambda: desk.watch.cannot_write)
        for _ in range(60):
            desk.watch.step()
            desk.now += 0.5
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before[1])
        signal.signal(signal.SIGXFSZ, before[0])
    assert desk.kinds() == ["cannot_write"]
    assert list(desk.output.iterdir()) == []
    desk.step_until(lambda: desk.watch.rests)
    assert desk.kinds() == ["cannot_write", "writing_again", "mask", "mask", "mask"]
    counts, _ = desk.watch.snapshot()
    assert counts.submitted < 40  # a pause between two tries, not one try after the other


def test_a_folder_that_vanishes_is_told_once_and_watched_again_when_it_is_back(desk: Desk) -> None:
    desk.watch.step()
    desk.place.rename(desk.place.with_name("away"))
    for _ in range(10):
        desk.now += 1
        desk.watch.step()
    assert desk.kinds() == ["no_folder"]
    desk.place.with_name("away").rename(desk.place)
    (desk.place / "a.png").write_bytes(png(0))
    desk.step_until(lambda: "mask" in desk.kinds())
    assert desk.kinds() == ["no_folder", "folder_again", "mask"]


@pytest.mark.parametrize("modified_s", [4e9, 0.0])
def test_file_times_of_a_clock_that_was_set_are_no_trouble(desk: Desk, modified_s: float) -> None:
    (desk.place / "a.png").write_bytes(png(0))
    desk.rest()
    os.utime(desk.place / "a.png", (modified_s, modified_s))
    desk.rest()
    assert desk.kinds() == ["mask", "mask"]  # another time may be another content
    desk.watch.close()
    desk.watch = desk.restarted()
    desk.rest()
    assert len(desk.news) == 2


def test_a_segmenter_that_cannot_compute_any_more_ends_the_watch(demo_bundle: Path, tmp_path: Path) -> None:
    segmenter = Segmenter.open(demo_bundle, "onnxruntime")
    desk = Desk(segmenter, tmp_path)
    for number in range(6):
        (desk.place / f"{number}.png").write_bytes(png(number))
    segmenter.close()
    with pytest.raises(ClosedError, match="is closed"):
        desk.rest()
    desk.watch.close()
    assert list(desk.output.iterdir()) == []
    counts, _ = desk.watch.snapshot()
    assert counts.in_flight == 0


def test_a_frame_that_is_gone_before_it_was_read_is_no_failure(desk: Desk) -> None:
    for number in range(8):
        (desk.place / f"{number}.png").write_bytes(png(number))
    desk.watch.step()
    desk.now += 1
    desk.watch.step()
    (desk.place / "7.png").unlink()
    desk.rest()
    assert desk.kinds() == ["mask"] * 7


def test_closing_writes_the_masks_that_are_under_way(desk: Desk) -> None:
    (desk.place / "a.png").write_bytes(png(0))
    desk.step_until(lambda: desk.watch.snapshot()[0].submitted)
    desk.watch.close()
    assert desk.kinds() == ["mask"]


def test_text_in_a_png_is_read_back_and_the_picture_is_the_same(tmp_path: Path) -> None:
    mask = np.eye(9, dtype=np.uint8) * 255
    (tmp_path / "a.png").write_bytes(with_text(png_bytes(mask), MADE_OF, "x: 12 bytes"))
    (tmp_path / "b.png").write_bytes(png_bytes(mask))
    (tmp_path / "c.png").write_bytes((tmp_path / "a.png").read_bytes().replace(b"12 bytes", b"13 bytes"))
    assert text_of(tmp_path / "a.png", MADE_OF) == "x: 12 bytes"
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), mask // 255)
    assert text_of(tmp_path / "a.png", "another key") is None
    assert [text_of(tmp_path / name, MADE_OF) for name in ("b.png", "c.png", "missing.png")] == [None] * 3


def test_names_beyond_latin_1_are_no_trouble(desk: Desk) -> None:
    name = os.fsdecode("Größe-細胞".encode())
    (desk.place / f"{name}.png").write_bytes(png(0))
    desk.rest()
    assert desk.kinds() == ["mask"]
    assert (desk.output / f"{name}.png").exists()
