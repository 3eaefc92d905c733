"""The packaged web page, in a real browser where there is one."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import threading
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from breastseg_deploy.bundle import Bundle
from breastseg_deploy.errors import MachineError
from breastseg_export.packages import web

_DRIVER = "puppeteer-core@24.43.1"
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def package(packaged: Callable[[str], Path]) -> Path:
    if shutil.which("npm") is None:
        pytest.skip("npm, which brings the engine of the web page, is not installed")
    try:
        return packaged("web")
    except MachineError as err:
        if "npm cannot get" not in str(err):
            raise
        pytest.skip(str(err))


@pytest.fixture(scope="module")
def answer(package: Path, demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the page said to a user who checks the browser, goes offline and opens three images."""
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if browser is None:
        pytest.skip("Chromium is not installed")
    folder = tmp_path_factory.mktemp("browser")
    shutil.copy(Path(__file__).with_name("drive.mjs"), folder)
    done = subprocess.run(
        ["npm", "install", "--silent", _DRIVER], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"npm cannot get {_DRIVER}: {done.stderr[-200:]}")
    frame = Bundle.open(demo_bundle).goldens()[0].frame
    for name, image in (
        ("frame", frame),
        ("larger", np.hstack([frame, frame])),
        ("deep", frame.astype(np.uint16) * 257),
    ):
        cv2.imwrite(str(folder / f"{name}.png"), image[:, :, ::-1])
    with _served(package) as url:
        words = ["node", "drive.mjs", url, browser, "frame.png", "larger.png", "deep.png", "."]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout)) | {"address": url}


def test_the_browser_reproduces_the_goldens(answer: dict[str, Any]) -> None:
    assert answer["check"]["passed"]
    assert [one["flipped"] for one in answer["check"]["results"]] == [0, 0, 0]


def test_a_dropped_frame_is_shown_with_its_cells_counted_as_opencv_counts_them(
    answer: dict[str, Any], demo_bundle: Path
) -> None:
    golden = Bundle.open(demo_bundle).goldens()[0]
    assert answer["cells"] == cv2.connectedComponents(golden.mask, connectivity=8)[0] - 1
    assert answer["brightest"] > golden.frame.max() // 2  # the frame itself is seen, not only its outline


def test_a_larger_image_is_cut_and_never_resized(answer: dict[str, Any], demo_bundle: Path) -> None:
    height, width = Bundle.open(demo_bundle).manifest.frame.size_px
    assert answer["larger"] == f"Done: larger.png, {width} x {height} px from ({width // 2}, 0); nothing is resized"


def test_16_bits_are_refused_and_not_cut_without_a_word(answer: dict[str, Any]) -> None:
    assert "16 bits" in answer["deep"]


def test_nothing_is_asked_of_anybody_else_and_nothing_complains(answer: dict[str, Any]) -> None:
    assert answer["asked"]
    assert all(address.startswith(answer["address"]) for address in answer["asked"])
    assert answer["complaints"] == []


def test_the_page_fits_a_phone(answer: dict[str, Any]) -> None:
    assert not answer["overflow"]


def test_force_may_replace_an_older_page(package: Path) -> None:
    assert web.WEB.foreign(package) is None


def test_another_engine_than_the_tested_one_is_not_packaged(
    package: Path, demo_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    npm = tmp_path / "npm"
    npm.write_text('#!/bin/sh\necho other > "$4/other.tgz"\n')
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    with pytest.raises(MachineError, match="another SHA-512"):
        list(web.WEB.files(Bundle.open(demo_bundle)))


def test_without_npm_the_sentence_says_what_to_install(
    demo_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(MachineError, match=r"install Node\.js with npm"):
        list(web.WEB.files(Bundle.open(demo_bundle)))


class _Served:
    def __init__(self, folder: Path) -> None:
        handler = functools.partial(_Quiet, directory=str(folder))
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_address[1]}/"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nothing is logged."""


def _served(folder: Path) -> _Served:
    return _Served(folder)
