"""The scripts for QuPath: every name that they read is in a real answer, and they run where Groovy is installed."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_geojson import check_qupath, check_valid

from breastseg_deploy.bundle import Bundle
from breastseg_deploy.cli.main import main
from breastseg_deploy.io.images import png_bytes
from breastseg_deploy.io.open_slide import open_slide
from breastseg_deploy.phantom import phantom_frame
from breastseg_deploy.segmenter import Segmenter

SCRIPTS = Path(__file__).resolve().parents[3] / "docs" / "qupath"
IMPORT, SEGMENT = SCRIPTS / "import_cells.groovy", SCRIPTS / "segment_open_image.groovy"
STAND_INS = Path(__file__).parent / "stand_ins"
SIZE_PX = (170, 230)
PHANTOM = 5
MISSING = object()

Run = Callable[..., str]


@pytest.fixture(scope="module")
def images(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide with cells, a frame of the bundle's size, and a file that is no image; a folder for each."""
    folder = tmp_path_factory.mktemp("images")
    frame_px = Bundle.open(demo_bundle).manifest.frame.size_px
    contents = {
        "slide.png": png_bytes(phantom_frame(PHANTOM, SIZE_PX).frame),
        "frame.png": png_bytes(phantom_frame(PHANTOM, frame_px).frame),
        "broken.tif": b"II*\0 and no more",
    }
    for name, content in contents.items():
        (folder / Path(name).stem).mkdir()
        (folder / Path(name).stem / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def result(demo_bundle: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a slide's results."""
    output = tmp_path_factory.mktemp("results")
    main(["segment", str(demo_bundle), str(images / "slide" / "slide.png"), "--output", str(output)])
    return output / "slide"


@pytest.fixture
def answers(demo_bundle: Path, images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> list[Any]:
    """What `breastseg segment --json` says of a slide, of a frame, of a file that is no image, and of no bundle."""
    told = []
    for bundle, name in (
        (demo_bundle, "slide/slide.png"),
        (demo_bundle, "frame/frame.png"),
        (demo_bundle, "broken/broken.tif"),
        (tmp_path, "slide/slide.png"),
    ):
        place = str(tmp_path / f"{len(told)}")
        main(["segment", str(bundle), str(images / name), "--output", place, "--force", "--json"])
        told.append(json.loads(capfd.readouterr().out))
    return told


@pytest.fixture
def run(images: Path) -> Run:
    """Runs a script with Groovy on an open image; gives what it prints."""
    groovy = shutil.which("groovy")
    if groovy is None or subprocess.run([groovy, "--version"], capture_output=True, check=False).returncode:
        pytest.skip("Groovy is not installed, or without a Java that runs it (Debian: groovy, default-jre-headless)")

    def done(script: Path, image: Path, size_px: tuple[int, int], chosen: Path | None = None) -> str:
        words = [groovy, STAND_INS / "run.groovy", script, image, *size_px, STAND_INS]
        given = {"CHOSEN_FOLDER": str(chosen), "JAVA_OPTS": "--add-opens=java.base/java.lang=ALL-UNNAMED"}
        told = subprocess.run(
            list(map(str, words)), capture_output=True, text=True, timeout=300, check=False, env=os.environ | given
        )
        assert told.returncode == 0, told.stdout + told.stderr
        return told.stdout

    return done


@pytest.fixture
def segment_script(demo_bundle: Path, tmp_path: Path) -> Path:
    """The script with its three lines set as a user sets them."""
    program, text = Path(sys.executable).parent / "breastseg", SEGMENT.read_text()
    for said, meant in (("/opt/breastseg/bin/breastseg", program), ("/opt/breastseg/bundle", demo_bundle)):
        assert said in text
        text = text.replace(said, str(meant))
    place = tmp_path / "segment.groovy"
    place.write_text(text)
    return place


def chains(script: Path) -> Iterator[tuple[str, bool]]:
    """What a script reads of `result` and `answer`, such as "answer.slides[0].folder", and whether it prints it."""
    roots, path = {"result": "result", "answer": "answer"}, r"(?:\.\w+\b(?!\()|\[\d+\])+"
    for line in script.read_text().splitlines():
        code = line.split("//")[0]
        for found in re.finditer(rf"(?<![\w.\"])({'|'.join(roots)})({path})", code):
            printed = code.rfind("${", 0, found.start()) > code.rfind("}", 0, found.start())
            yield roots[found[1]] + found[2], printed
        if alias := re.fullmatch(rf"def (\w+) = ({'|'.join(roots)})({path})\s*", code):
            roots[alias[1]] = roots[alias[2]] + alias[3]


def value_of(chain: str, document: Any) -> Any:
    """What stands there; MISSING where nothing does."""
    for name, number in re.findall(r"\.(\w+)|\[(\d+)\]", chain):
        try:
            document = document[name or int(number)]
        except (KeyError, IndexError):
            return MISSING
    return document


@pytest.mark.parametrize(("script", "most"), [(IMPORT, 9), (SEGMENT, 7)])
def test_every_name_that_a_script_reads_is_in_a_real_answer(
    result: Path, answers: list[Any], script: Path, most: int
) -> None:
    documents = {"result": [json.loads((result / "result.json").read_text())], "answer": answers}
    read = list(chains(script))
    assert len({chain for chain, _ in read}) >= most
    for chain, printed in read:
        root = re.match(r"\w+", chain)
        assert root is not None
        found = [value_of(chain, one) for one in documents[root[0]]]
        found = [value for value in found if value is not MISSING]
        assert found, f"{script.name} reads {chain}, which no answer has"
        if printed:
            assert not isinstance(found[0], dict | list), f"{script.name} prints {chain}, which is no single value"


def test_the_cells_of_a_run_keep_the_rules_of_qupaths_reader(result: Path) -> None:
    with gzip.open(result / "cells.geojson.gz") as file:
        document = json.load(file, parse_constant=pytest.fail)

    check_qupath(document)
    check_valid(document["features"], SIZE_PX)
    assert len(document["features"]) == json.loads((result / "result.json").read_text())["cells"]["count"] > 0


def test_the_import_script_adds_the_cells_of_the_open_slide(run: Run, result: Path, images: Path) -> None:
    told = run(IMPORT, images / "slide" / "slide.png", SIZE_PX, result)

    count = json.loads((result / "result.json").read_text())["cells"]["count"]
    assert told.startswith(f"{count} cells; ")
    assert told.endswith(f"imported {result / 'cells.geojson.gz'}\nupdated\n")


def test_the_import_script_refuses_a_result_of_another_image(run: Run, result: Path, images: Path) -> None:
    told = run(IMPORT, images / "slide" / "slide.png", (SIZE_PX[0] - 1, SIZE_PX[1]), result)

    assert "open the slide of this result" in told
    assert "imported" not in told


def test_the_import_script_knows_a_rescaled_slide_by_the_size_of_its_file(
    run: Run, demo_bundle: Path, images: Path, tmp_path: Path
) -> None:
    path = images / "slide" / "slide.png"
    with Segmenter.open(demo_bundle) as segment, open_slide(path, pixel_size_um=0.5, rescale_to_um=0.6) as slide:
        assert slide.size_px != SIZE_PX
        segment.slide(slide, tmp_path / "slide")

    assert "imported" in run(IMPORT, path, SIZE_PX, tmp_path / "slide")
    assert "imported" not in run(IMPORT, path, (SIZE_PX[0] + 2, SIZE_PX[1]), tmp_path / "slide")


def test_the_segment_script_adds_the_cells_that_it_found(
    run: Run, segment_script: Path, images: Path, result: Path
) -> None:
    told = run(segment_script, images / "slide" / "slide.png", SIZE_PX)

    folder = images / "slide" / "breastseg" / "slide"
    count = json.loads((result / "result.json").read_text())["cells"]["count"]
    assert f"imported {folder / 'cells.geojson.gz'}\nupdated\n{count} cells from {folder}\n" in told


def test_the_segment_script_says_that_a_frame_has_no_cells(run: Run, segment_script: Path, images: Path) -> None:
    told = run(segment_script, images / "frame" / "frame.png", SIZE_PX)

    assert told.strip().endswith(str(images / "frame" / "breastseg" / "frame.png"))
    assert "imported" not in told


def test_the_segment_script_says_why_nothing_was_segmented(run: Run, segment_script: Path, images: Path) -> None:
    told = run(segment_script, images / "broken" / "broken.tif", SIZE_PX)

    assert "breastseg ended with 1: " in told
    assert "broken.tif" in told
