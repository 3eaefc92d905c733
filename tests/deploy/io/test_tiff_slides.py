"""TIFF and OME-TIFF slides: every region is the file's own pixels, and what is damaged or unclear is refused."""

from __future__ import annotations

import re
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from slides import grey16, pyramid, rgb8, smooth_rgb8

from breastseg_deploy.errors import SlideError
from breastseg_deploy.io.open_reader import open_reader
from breastseg_deploy.io.readers import pieces
from breastseg_deploy.io.readers.tiff import TiffReader

REGIONS = [(0, 0, 150, 210), (63, 64, 2, 1), (149, 209, 1, 1), (17, 101, 100, 90), (64, 128, 64, 64)]


def described(path: Path) -> Any:
    reader = open_reader(path)
    reader.close()
    return reader.describe()


def regions_agree(path: Path, whole: NDArray[Any], level: int = 0) -> None:
    reader = open_reader(path)
    expected = whole.reshape(*whole.shape[:2], -1)
    for top, left, height, width in REGIONS:
        found = reader.read(level, top, left, height, width)
        assert found.dtype == whole.dtype
        np.testing.assert_array_equal(found, expected[top : top + height, left : left + width])
    reader.close()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tile": (64, 64)},
        {"tile": (64, 32), "compression": "zlib"},
        {"tile": (64, 64), "compression": "zlib", "predictor": True},
        {"compression": "zlib", "rowsperstrip": 7},
        {"rowsperstrip": 7},
        {"compression": "lzw"},
        {"tile": (64, 64), "compression": "zstd", "bigtiff": True},
        {"tile": (64, 64), "compression": "zlib", "byteorder": ">"},
        {"byteorder": ">"},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["grey 16", "grey 8", "colour"])
def test_regions_are_the_files_own_pixels(tmp_path: Path, options: dict[str, Any], kind: str) -> None:
    whole = {"grey 16": grey16(150, 210), "grey 8": grey16(150, 210).astype(np.uint8), "colour": rgb8(150, 210)}[kind]
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, whole, photometric="rgb" if kind == "colour" else "minisblack", **options)
    regions_agree(path, whole)


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_channels_of_one_page_come_in_order(tmp_path: Path, planar: str) -> None:
    whole = np.stack([grey16(150, 210) + number for number in range(4)], axis=-1)
    path = tmp_path / "a.tif"
    stored = whole if planar == "contig" else np.moveaxis(whole, -1, 0)
    tifffile.imwrite(
        path,
        stored,
        photometric="minisblack",
        planarconfig=planar,
        tile=(64, 64),
        compression="zlib",
        extrasamples=["unspecified"] * 3,
    )
    regions_agree(path, whole)
    assert described(path).channels == ("0", "1", "2", "3")


def test_an_ome_pyramid_has_its_levels_channels_and_pixel_size(tmp_path: Path) -> None:
    planes = np.stack([grey16(150, 210), grey16(150, 210)[::-1]])
    metadata = {"Channel": {"Name": ["DAPI", "CK5"]}, "PhysicalSizeX": 0.5, "PhysicalSizeY": 500, "SignificantBits": 12}
    metadata |= {"PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "nm"}
    path = pyramid(tmp_path / "a.ome.tif", planes, 3, metadata=metadata, compression="zlib")
    info = described(path)
    assert (info.format, info.size_px, info.dtype, info.bits) == ("OME-TIFF", (150, 210), "uint16", 12)
    assert info.channels == ("DAPI", "CK5")
    assert info.pixel_size_um == (0.5, 0.5)
    assert [(level.size_px, level.downsample) for level in info.levels] == [
        ((150, 210), 1.0),
        ((75, 105), 2.0),
        ((38, 53), 4.0),
    ]
    regions_agree(path, np.moveaxis(planes, 0, -1))
    reader = open_reader(path)
    np.testing.assert_array_equal(reader.read(2, 3, 4, 30, 20), np.moveaxis(planes[:, ::4, ::4], 0, -1)[3:33, 4:24])
    reader.close()


def test_a_qptiff_of_8_bit_fluorescence_has_its_channels_names_and_levels(tmp_path: Path) -> None:
    def described_as(kind: str, name: str) -> dict[str, Any]:
        names = f"<ImageType>{kind}</ImageType><Name>{name}</Name>"
        xml = f'<?xml version="1.0" encoding="utf-16"?><PerkinElmer-QPI-ImageDescription>{names}'
        return {
            "description": xml + "</PerkinElmer-QPI-ImageDescription>",
            "software": "PerkinElmer-QPI",
            "metadata": None,
            "resolution": (20000, 20000),
            "resolutionunit": "CENTIMETER",
        }

    planes, path = [rgb8(150, 210)[:, :, 0], rgb8(150, 210)[:, :, 1]], tmp_path / "a.qptiff"
    with tifffile.TiffWriter(path) as tiff:
        for plane, name in zip(planes, ("DAPI", "CK5"), strict=True):
            tiff.write(plane, tile=(64, 64), **described_as("FullResolution", name))
        tiff.write(rgb8(30, 40), photometric="rgb", **described_as("Thumbnail", ""))
        for plane, name in zip(planes, ("DAPI", "CK5"), strict=True):
            tiff.write(plane[::2, ::2], tile=(64, 64), subfiletype=1, **described_as("ReducedResolution", name))
    regions_agree(path, np.stack(planes, axis=-1))
    info = described(path)
    assert (info.format, info.channels, info.pixel_size_um) == ("QPTIFF", ("DAPI", "CK5"), (0.5, 0.5))
    assert [level.downsample for level in info.levels] == [1.0, 2.0]


def test_an_imagej_stack_of_channels_has_its_unit(tmp_path: Path) -> None:
    planes = np.stack([grey16(150, 210), grey16(150, 210)[::-1]])
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, planes, imagej=True, resolution=(4, 4), metadata={"axes": "CYX", "unit": "um"})
    regions_agree(path, np.moveaxis(planes, 0, -1))
    assert described(path).pixel_size_um == (0.25, 0.25)


@pytest.mark.parametrize(
    ("resolution", "unit", "expected"),
    [
        ((40000, 40000), "CENTIMETER", (0.25, 0.25)),
        ((50800, 25400), "INCH", (1.0, 0.5)),
        ((72, 72), "INCH", None),
        ((300, 300), "INCH", None),
        ((40000, 40000), "NONE", None),
        ((0, 0), "CENTIMETER", None),
    ],
)
def test_a_tiffs_resolution_is_a_pixel_size_unless_it_is_a_printers(
    tmp_path: Path, resolution: tuple[int, int], unit: str, expected: tuple[float, float] | None
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, grey16(40, 40), resolution=resolution, resolutionunit=unit)
    found = described(path).pixel_size_um
    assert found == (expected if expected is None else pytest.approx(expected))


def test_jpeg_tiles_of_a_colour_pyramid_are_close_to_the_pixels(tmp_path: Path) -> None:
    whole = smooth_rgb8(150, 210)
    path = pyramid(tmp_path / "a.ome.tif", whole, 2, compression="jpeg")
    reader = open_reader(path)
    found = reader.read(0, 10, 20, 100, 150).astype(int)
    reader.close()
    assert np.abs(found - whole[10:110, 20:170]).max() <= 8


def test_a_region_decodes_only_the_tiles_that_it_touches(tmp_path: Path) -> None:
    path = pyramid(tmp_path / "a.ome.tif", grey16(256, 256), 1, compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        offsets, counts = page.dataoffsets, page.databytecounts
    content = bytearray(path.read_bytes())
    for number in set(range(16)) - {5}:  # all but the tile at (64, 64) no longer decode
        content[offsets[number] : offsets[number] + counts[number]] = b"\xff" * counts[number]
    path.write_bytes(content)
    reader = open_reader(path)
    np.testing.assert_array_equal(reader.read(0, 64, 64, 64, 64)[:, :, 0], grey16(256, 256)[64:128, 64:128])
    with pytest.raises(SlideError, match=rf"{re.escape(str(path))} cannot be decoded at row 0, column 128 \("):
        reader.read(0, 32, 130, 8, 8)
    reader.close()


def test_a_slide_of_100_000_px_takes_the_memory_of_the_regions_that_are_read(tmp_path: Path) -> None:
    path, side, tile = tmp_path / "a.tif", 100_000, 1024
    pixels = np.arange(tile)[:, None] // 32 * tile + np.arange(tile)  # few rows that differ, so that it packs well
    encoded = zlib.compress(pixels.astype(np.uint16).tobytes())
    count = (-(-side // tile)) ** 2
    tifffile.imwrite(
        path,
        iter([encoded] * count),
        shape=(side, side),
        dtype=np.uint16,
        tile=(tile, tile),
        compression="zlib",
        bigtiff=True,
    )
    tracemalloc.start()
    reader = open_reader(path)
    found = reader.read(0, 77_000, 50_000, 1500, 1500)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    reader.close()
    assert found[700, 1300, 0] == pixels[77_700 % tile, 51_300 % tile]
    assert peak < 40 * 2**20


def test_several_threads_read_one_slide(tmp_path: Path) -> None:
    whole = grey16(512, 512)
    reader = open_reader(pyramid(tmp_path / "a.ome.tif", whole, 1, compression="zlib"))

    def agrees(place: int) -> bool:
        top, left = place * 7 % 400, place * 13 % 400
        return np.array_equal(reader.read(0, top, left, 100, 100)[:, :, 0], whole[top : top + 100, left : left + 100])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(agrees, range(200)))
    reader.close()


@pytest.mark.parametrize("options", [{}, {"tile": (64, 64)}, {"tile": (64, 64), "compression": "zlib"}], ids=str)
@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, options: dict[str, Any], share: float) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, grey16(300, 300), **options)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(SlideError, match=re.escape(str(path))):
        open_reader(path)


@pytest.mark.parametrize("share", [0.3, 0.7, 0.9, 0.98])
def test_a_pyramid_that_is_cut_short_is_refused_before_any_pixel_is_read(tmp_path: Path, share: float) -> None:
    path = pyramid(tmp_path / "a.ome.tif", grey16(300, 300), 3)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(SlideError, match=re.escape(str(path))):
        open_reader(path)


def test_a_level_that_is_named_and_not_there_is_said(tmp_path: Path) -> None:
    path = pyramid(tmp_path / "a.ome.tif", grey16(300, 300), 3)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        second = tiff.pages[0].subifds[1]
        tag = tiff.pages[0].tags[330]
        tag.overwrite((tag.value[0], path.stat().st_size + 1000))
    assert second
    with pytest.raises(SlideError, match=r"names 3 levels and only 2 are there|damaged"):
        open_reader(path)


def test_a_tile_without_bytes_is_refused_and_not_read_as_blank(tmp_path: Path) -> None:
    path = pyramid(tmp_path / "a.ome.tif", grey16(256, 256), 1, compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tag = tiff.pages[0].tags["TileByteCounts"]
        tag.overwrite((0, *tag.value[1:]))
    with pytest.raises(SlideError, match="lacks 1 of its 16 tiles"):
        open_reader(path)


def test_a_jpeg_tile_without_its_end_is_refused_and_not_read_as_grey(tmp_path: Path) -> None:
    path = pyramid(tmp_path / "a.ome.tif", rgb8(128, 128), 1, compression="jpeg")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tag = tiff.pages[0].tags["TileByteCounts"]
        tag.overwrite(tuple(count - 20 for count in tag.value))
    reader = open_reader(path)
    with pytest.raises(SlideError, match=r"at row 64, column 0 .*JPEG without its end"):
        reader.read(0, 70, 0, 10, 10)
    reader.close()


def test_a_companion_file_that_is_missing_is_said_and_not_read_as_zeros(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    uuid = "urn:uuid:00000000-0000-0000-0000-000000000001"
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0" '
        'DimensionOrder="XYCZT" Type="uint16" SizeX="64" SizeY="64" SizeC="2" SizeZ="1" SizeT="1">'
        '<Channel ID="Channel:0:0"/><Channel ID="Channel:0:1"/><TiffData FirstC="0" IFD="0" PlaneCount="1"/>'
        f'<TiffData FirstC="1" IFD="0" PlaneCount="1"><UUID FileName="b.ome.tif">{uuid}</UUID></TiffData>'
        "</Pixels></Image></OME>"
    )
    tifffile.imwrite(path, grey16(64, 64), description=xml, metadata=None)
    with pytest.raises(SlideError, match="lacks pages or files that its own description names"):
        open_reader(path)


def test_the_files_of_one_ome_tiff_are_one_slide(tmp_path: Path) -> None:
    uuids = [f"urn:uuid:00000000-0000-0000-0000-00000000000{number}" for number in range(2)]
    data = "".join(
        f'<TiffData FirstC="{number}" IFD="0" PlaneCount="1"><UUID FileName="{number}.ome.tif">{uuid}</UUID></TiffData>'
        for number, uuid in enumerate(uuids)
    )
    planes = [grey16(150, 210), grey16(150, 210)[::-1]]
    for number, plane in enumerate(planes):
        xml = (
            f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{uuids[number]}">'
            '<Image ID="Image:0">'
            '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="210" SizeY="150" SizeC="2" SizeZ="1" '
            f'SizeT="1"><Channel ID="Channel:0:0" Name="a"/><Channel ID="Channel:0:1" Name="b"/>{data}</Pixels>'
            "</Image></OME>"
        )
        options = {"tile": (64, 64), "compression": "zlib"}
        tifffile.imwrite(tmp_path / f"{number}.ome.tif", plane, description=xml, metadata=None, **options)
    regions_agree(tmp_path / "1.ome.tif", np.stack(planes, axis=-1))
    assert described(tmp_path / "1.ome.tif").files == (tmp_path / "0.ome.tif", tmp_path / "1.ome.tif")


@pytest.mark.parametrize(
    ("pixels", "options", "sentence"),
    [
        (np.zeros((3, 40, 50), np.uint16), {"photometric": "minisblack"}, r"holds 3 planes \(a z-stack"),
        (np.zeros((3, 40, 50), np.uint16), {"imagej": True, "metadata": {"axes": "ZYX"}}, "axes ZYX"),
        (np.zeros((2, 40, 50), np.uint8), {"ome": True, "metadata": {"axes": "TYX"}}, "axes TYX"),
        (np.zeros((40, 50, 4), np.uint8), {"photometric": "rgb", "extrasamples": ["unassalpha"]}, "alpha channel"),
        (np.zeros((40, 50, 2), np.uint8), {"photometric": "minisblack", "extrasamples": ["assocalpha"]}, "alpha"),
        (np.zeros((40, 50), np.float32), {}, "holds float32 values"),
        (np.zeros((40, 50), np.int16), {}, "holds int16 values"),
        (np.zeros((40, 50), np.uint32), {}, "holds uint32 values"),
        (np.zeros((40, 50), np.bool_), {}, "single bits: a mask"),
        (np.zeros((40, 50), np.uint8), {"photometric": "miniswhite"}, "colours as MINISWHITE"),
        (
            np.zeros((40, 50), np.uint8),
            {"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)},
            "colours as PALETTE",
        ),
    ],
)
def test_what_is_no_slide_is_refused_in_a_sentence(
    tmp_path: Path, pixels: NDArray[Any], options: dict[str, Any], sentence: str
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, **options)
    with pytest.raises(SlideError, match=sentence) as caught:
        open_reader(path)
    assert str(path) in str(caught.value)


def test_several_images_in_one_file_are_refused_with_their_names(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(grey16(100, 100), metadata={"Name": "well A"})
        tiff.write(grey16(100, 90), metadata={"Name": "well B"})
    with pytest.raises(SlideError, match=r"holds 2 images \(well A: 100 x 100 px, well B: 100 x 90 px\)"):
        open_reader(path)


def test_a_label_and_a_macro_picture_beside_the_slide_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(rgb8(30, 40), photometric="rgb", metadata={"Name": "Label image"})
        tiff.write(
            rgb8(150, 210), photometric="rgb", metadata={"Name": "slide", "PhysicalSizeX": 1, "PhysicalSizeY": 1}
        )
        tiff.write(rgb8(40, 30), photometric="rgb", metadata={"Name": "macro"})
    regions_agree(path, rgb8(150, 210))
    assert described(path).pixel_size_um == (1.0, 1.0)


def test_a_compressed_slide_in_one_strip_is_refused_where_a_region_would_need_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    side = int(pieces.LARGEST_PIECE_BYTES**0.5) + 1
    tifffile.imwrite(path, np.zeros((side, side), np.uint8), compression="zlib", rowsperstrip=side)
    with pytest.raises(SlideError, match="too large to read region by region; save it in tiles"):
        TiffReader(path)


def test_bytes_that_only_begin_like_a_tiff_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(b"II*\0" + bytes(range(256)))
    with pytest.raises(SlideError, match=re.escape(str(path))):
        open_reader(path)


@pytest.mark.parametrize("compression", [None, "lzw"])
def test_colours_that_nobody_would_convert_are_refused(tmp_path: Path, compression: str | None) -> None:
    """As JPEG stores them, but without JPEG: they would be taken for red, green and blue."""
    path = tmp_path / "ycbcr.tif"
    tifffile.imwrite(
        path, rgb8(150, 210), photometric="ycbcr", compression=compression, subsampling=(1, 1), tile=(64, 64)
    )
    with pytest.raises(SlideError, match="stores colours as YCBCR without JPEG; save it as RGB"):
        open_reader(path)
