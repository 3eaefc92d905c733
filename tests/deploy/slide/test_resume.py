"""A run that is killed at any moment goes on where it was."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from time import perf_counter

import numpy as np
from array_slide import ArraySlide, BrightPixels, discs, made_up_bundle

from breastseg_deploy.bundle import Bundle
from breastseg_deploy.slide.record import RESULT
from breastseg_deploy.slide.run import Request, segment_slide

KILLS = 20
SIZE_PX = (330, 500)
WITHOUT = ("seconds", "mpx_per_s")


def segment(folder: str, place: str) -> None:
    """What is killed: a whole run."""
    bundle = made_up_bundle(Path(folder))
    segment_slide(ArraySlide(discs(SIZE_PX, 60)), bundle, BrightPixels(), Request(Path(place)))


def content(place: Path) -> dict[str, bytes]:
    """All files of a result; of result.json all but times, and without the page, which shows them."""
    files = {path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file()}
    result = json.loads(files[RESULT])
    files[RESULT] = json.dumps({name: value for name, value in result.items() if name not in WITHOUT}).encode()
    del files["report.html"]
    return files


def test_a_run_killed_at_20_random_moments_ends_with_the_bytes_of_one_that_was_not(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    processes = multiprocessing.get_context("forkserver")  # it has loaded the libraries, and no thread of theirs runs
    processes.set_forkserver_preload(["breastseg_deploy.slide.run", "breastseg_deploy.slide.outputs", "cv2"])

    def started(place: Path) -> multiprocessing.process.BaseProcess:
        process = processes.Process(target=segment, args=(str(tmp_path / "bundle"), str(place)))
        process.start()
        return process

    began = perf_counter()
    started(tmp_path / "whole" / "out").join()
    took = perf_counter() - began
    killed, number = 0, 0
    while killed < KILLS:
        number += 1
        place = tmp_path / f"{number}" / "out"
        while not (place / RESULT).exists():
            process = started(place)
            process.join(random.uniform(0, took) if killed < KILLS else None)
            if process.is_alive():
                process.kill()
                process.join()
                killed += 1
            else:
                assert process.exitcode == 0
        segment(str(tmp_path / "bundle"), str(place))  # a kill between the result and the end leaves work to clear
        assert content(place) == content(tmp_path / "whole" / "out")


def test_what_a_kill_leaves_of_a_file_is_no_tile(tmp_path: Path) -> None:
    bundle: Bundle = made_up_bundle(tmp_path / "bundle")
    slide, request = ArraySlide(discs(SIZE_PX, 60)), Request(tmp_path / "out")
    tiles = tmp_path / "out" / "unfinished" / "tiles"

    def cut_off(calls: int) -> None:
        if calls == 9:
            (tiles / ".9-9.tile.0a0b0c0d.partial").write_bytes(b"half a tile")
            raise KeyboardInterrupt

    try:
        segment_slide(slide, bundle, BrightPixels(cut_off), request)
    except KeyboardInterrupt:
        result = segment_slide(slide, bundle, BrightPixels(), request)
    assert result.resumed == "resumed"
