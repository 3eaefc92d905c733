"""A disk that is full at each write of a slide: one sentence, and the next run goes on to the same bytes."""

from __future__ import annotations

from pathlib import Path

from plant import FULL_DISK, child, findings

MADE_UP_SLIDES = Path(__file__).resolve().parents[1] / "deploy" / "slide"

EACH_WRITE = (
    FULL_DISK
    + """
import pathlib, shutil
sys.path.insert(0, sys.argv[2])
from array_slide import ArraySlide, BrightPixels, discs, made_up_bundle
from breastseg_deploy.errors import OutputError
from breastseg_deploy.slide.run import Request, segment_slide

place = pathlib.Path(sys.argv[1])
bundle = made_up_bundle(place / "bundle")
slide = ArraySlide(discs((250, 330), 30))

def run(at):
    disk.begin(place / "out", at)
    try:
        return segment_slide(slide, bundle, BrightPixels(), Request(place / "out" / "slide", threads=1)).resumed
    except OutputError as err:
        return str(err)
    finally:
        disk.place = None

def files():
    there = [path for path in (place / "out").rglob("*") if path.is_file()]
    found = {path.relative_to(place).as_posix(): path.read_bytes() for path in there}
    for name in [name for name in found if name.endswith(("result.json", "report.html"))]:  # they hold seconds
        found[name] = b""
    shutil.rmtree(place / "out")
    return found

run(None)
writes, whole = disk.seen, files()
print("found", json.dumps(dict(writes=writes, files=sorted(whole))))
for at in range(1, writes + 1):
    told = run(at)
    final = [path.name for path in (place / "out").glob("slide/*") if path.is_file()]
    again = run(None)
    print("found", json.dumps(dict(at=at, told=told, final=final, again=again, same=files() == whole)), flush=True)
"""
)


def test_a_slide_with_a_full_disk_at_each_write_says_so_and_goes_on(tmp_path: Path) -> None:
    whole, *full = findings(child(EACH_WRITE, tmp_path, MADE_UP_SLIDES, cache=tmp_path / "cache"))
    assert {Path(name).name for name in whole["files"]} >= {
        "mask.ome.tif",
        "labels.ome.tif",
        "cells.geojson.gz",
        "cells.csv",
        "overview.png",
        "certificate.png",
        "report.html",
        "result.json",
    }
    assert len(full) == whole["writes"] > 20
    told = [one for one in full if one["told"]]
    assert len(full) - len(told) <= 2  # without a lock it goes on
    for one in told:
        assert "no space left on device" in one["told"].lower(), one
        assert "result.json" not in one["final"], one
    for one in full:
        assert one["again"] in ("", "resumed", "done"), one
        assert one["same"], one
