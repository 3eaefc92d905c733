"""Slides with random damage: read as far as the damage cannot be seen, or refused in one sentence; nothing else."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import tifffile
from pylibCZIrw import czi as pyczi
from slides import dicom_slide, grey16, pyramid, rgb8

from breastseg_deploy.errors import SlideError
from breastseg_deploy.io.open_slide import open_slide

DAMAGES = 40
MOST_PIXELS = 10**7
"""A damaged header may state any size; such a slide is opened and not read whole."""


def strips(path: Path) -> Path:
    tifffile.imwrite(path, grey16(300, 200), compression="lzw", rowsperstrip=7)
    return path


def svs(path: Path) -> Path:
    options: dict[str, Any] = {"tile": (64, 64), "compression": "jpeg", "photometric": "rgb", "metadata": None}
    tifffile.imwrite(path, rgb8(300, 200), description="Aperio Image Library v11|MPP = 0.5", **options)
    return path


def czi(path: Path) -> Path:
    with pyczi.create_czi(str(path)) as file:
        file.write(grey16(200, 150)[:, :, None], compression_options="zstd0:ExplicitLevel=3")
        file.write_metadata("slide")
    return path


KINDS: dict[str, Callable[[Path], Path]] = {
    "a.ome.tif": lambda path: pyramid(path, grey16(300, 200), 3, compression="zlib"),
    "jpeg.ome.tif": lambda path: pyramid(path, rgb8(300, 200), 2, compression="jpeg"),
    "strips.tif": strips,
    "a.svs": svs,
    "plain.dcm": lambda path: dicom_slide(path, rgb8(100, 120)),
    "jpeg.dcm": lambda path: dicom_slide(path, rgb8(100, 120), jpeg=True),
    "a.czi": czi,
}


def damaged(content: bytes, chance: random.Random) -> bytes:
    """A few bytes changed, half of them near the ends, where the structure of most formats is."""
    changed = bytearray(content)
    for _ in range(chance.choice([1, 3, 10])):
        near = chance.randrange(min(2000, len(changed)))
        place = chance.choice([chance.randrange(len(changed)), near, len(changed) - 1 - near])
        changed[place] = chance.randrange(256)
    return bytes(changed)


@pytest.mark.parametrize("name", KINDS)
def test_random_damage_is_refused_in_a_sentence_or_cannot_be_seen(tmp_path: Path, name: str) -> None:
    path = KINDS[name](tmp_path / name)
    content, chance = path.read_bytes(), random.Random(14)
    for _ in range(DAMAGES):
        path.write_bytes(damaged(content, chance))
        for bit_depth in (16, None):
            with suppress(SlideError), open_slide(path, bit_depth=bit_depth) as slide:
                if slide.size_px[0] * slide.size_px[1] <= MOST_PIXELS:
                    slide.read_rgb(0, 0, *slide.size_px)
                    slide.thumbnail(50)
