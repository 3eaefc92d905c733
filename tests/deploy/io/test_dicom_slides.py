"""DICOM whole slides, as written by the tests: tiled fully and sparsely, plain and JPEG, one file and several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate_extended
from slides import dicom_slide, grey16, jpeg_bytes, rgb8, smooth_rgb8

from breastseg_deploy.errors import SlideError
from breastseg_deploy.io.open_reader import open_reader
from breastseg_deploy.io.open_slide import open_slide
from breastseg_deploy.io.slide import SlideInfo

BY_COLUMNS = [y * 4 + x for x in range(4) for y in range(3)]
"""The frames of a slide of 3 x 4 tiles, column after column."""


def described(path: Path) -> SlideInfo:
    reader = open_reader(path)
    reader.close()
    return reader.describe()


def read(path: Path, level: int, *place: int) -> NDArray[Any]:
    reader = open_reader(path)
    try:
        return reader.read(level, *place)
    finally:
        reader.close()


def path_item(identifier: str) -> Dataset:
    item = Dataset()
    item.OpticalPathIdentifier = identifier
    return item


def placed(row: int, column: int, z: float = 0.0) -> Dataset:
    position, group = Dataset(), Dataset()
    position.RowPositionInTotalImagePixelMatrix, position.ColumnPositionInTotalImagePixelMatrix = row + 1, column + 1
    position.ZOffsetInSlideCoordinateSystem = z
    group.PlanePositionSlideSequence = [position]
    return group


@pytest.mark.parametrize(
    "pixels", [rgb8(90, 120), grey16(90, 120), grey16(90, 120).astype(np.uint8)], ids=["rgb", "16", "8"]
)
def test_regions_are_the_files_own_pixels(tmp_path: Path, pixels: NDArray[Any]) -> None:
    path = dicom_slide(tmp_path / "a.dcm", pixels)
    expected = pixels.reshape(90, 120, -1)
    for top, left, height, width in [(0, 0, 90, 120), (31, 32, 2, 1), (89, 119, 1, 1), (10, 20, 60, 90)]:
        found = read(path, 0, top, left, height, width)
        np.testing.assert_array_equal(found, expected[top : top + height, left : left + width])
    info = described(path)
    assert (info.format, info.size_px, info.dtype) == ("DICOM", (90, 120), pixels.dtype.name)
    assert info.pixel_size_um == (0.5, 0.5)
    assert info.found_out == ()


def test_the_bits_in_use_are_those_that_the_file_states(tmp_path: Path) -> None:
    info = described(dicom_slide(tmp_path / "a.dcm", grey16(64, 64), BitsStored=12, HighBit=11))
    assert (info.dtype, info.bits) == ("uint16", 12)


@pytest.mark.parametrize("marked", [True, False])
def test_jpeg_tiles_come_in_their_own_colours(tmp_path: Path, marked: bool) -> None:
    pixels = smooth_rgb8(90, 120)
    path = dicom_slide(
        tmp_path / "a.dcm", pixels, jpeg=True, PhotometricInterpretation="YBR_FULL_422" if marked else "RGB"
    )
    assert np.abs(read(path, 0, 0, 0, 80, 110).astype(int) - pixels[:80, :110]).max() <= 10


def test_a_jpeg_that_stores_rgb_without_a_marker_is_taken_as_the_attributes_say(tmp_path: Path) -> None:
    import imagecodecs

    pixels = smooth_rgb8(32, 32)
    plain = bytes(imagecodecs.jpeg8_encode(pixels, level=95, colorspace="RGB", outcolorspace="RGB"))
    start = plain.index(b"\xff\xee")  # Adobe's marker, which says that it is RGB
    (length,) = [int.from_bytes(plain[start + 2 : start + 4], "big")]
    bare = plain[:start] + plain[start + 2 + length :]
    path = dicom_slide(tmp_path / "a.dcm", pixels, jpeg=True, PixelData=pydicom.encaps.encapsulate([bare]))
    assert np.abs(read(path, 0, 0, 0, 32, 32).astype(int) - pixels).max() <= 10


@pytest.mark.parametrize("kind", ["fragments", "extended"])
def test_frames_in_several_pieces_are_found_by_their_offsets(tmp_path: Path, kind: str) -> None:
    pixels = smooth_rgb8(64, 64)
    frames = [jpeg_bytes(pixels[y : y + 32, x : x + 32]) for y in (0, 32) for x in (0, 32)]
    path = tmp_path / "a.dcm"
    if kind == "fragments":
        dicom_slide(path, pixels, jpeg=True, PixelData=pydicom.encaps.encapsulate(frames, fragments_per_frame=3))
    else:
        content, offsets, lengths = encapsulate_extended(frames)
        extended = {"ExtendedOffsetTable": offsets, "ExtendedOffsetTableLengths": lengths}
        dicom_slide(path, pixels, jpeg=True, PixelData=content, **extended)
    assert np.abs(read(path, 0, 0, 0, 64, 64).astype(int) - pixels).max() <= 10


def test_a_folder_is_a_pyramid_of_its_files_and_labels_are_passed_over(tmp_path: Path) -> None:
    whole = rgb8(128, 192)
    folder = tmp_path / "slide"
    folder.mkdir()
    dicom_slide(folder / "b.dcm", whole[::2, ::2])
    dicom_slide(folder / "a.dcm", whole)
    dicom_slide(folder / "label.dcm", rgb8(40, 40), ImageType=["ORIGINAL", "PRIMARY", "LABEL", "NONE"])
    with open_slide(folder) as slide:
        assert slide.name == "slide"
        assert [level.size_px for level in slide.info.levels] == [(128, 192), (64, 96)]
        assert [file.name for file in slide.info.files] == ["a.dcm", "b.dcm"]
        np.testing.assert_array_equal(slide.thumbnail(96)[0], whole[::2, ::2])
        digest = slide.sha256()
    (folder / "b.dcm").rename(folder / "c.dcm")
    with open_slide(folder) as slide:
        assert slide.sha256() != digest


def test_optical_paths_are_channels_in_one_file_or_in_several(tmp_path: Path) -> None:
    first, second = grey16(64, 96), grey16(64, 96)[::-1].copy()
    together = np.concatenate([first, second])
    paths = [path_item("DAPI"), path_item("CK5")]
    one = dicom_slide(tmp_path / "one.dcm", together, OpticalPathSequence=paths, TotalPixelMatrixRows=64)
    folder = tmp_path / "folder"
    folder.mkdir()
    dicom_slide(folder / "1.dcm", first, OpticalPathSequence=paths[:1])
    dicom_slide(folder / "2.dcm", second, OpticalPathSequence=paths[1:])
    for place in (one, folder):
        assert described(place).channels == ("DAPI", "CK5")
        np.testing.assert_array_equal(read(place, 0, 5, 6, 50, 80), np.stack([first, second], -1)[5:55, 6:86])


def test_where_a_sparse_slide_has_no_tile_colour_is_white(tmp_path: Path) -> None:
    pixels = rgb8(64, 32)
    sparse = {"DimensionOrganizationType": "TILED_SPARSE", "TotalPixelMatrixRows": 64, "TotalPixelMatrixColumns": 64}
    path = dicom_slide(
        tmp_path / "a.dcm", pixels, PerFrameFunctionalGroupsSequence=[placed(32, 0), placed(0, 32)], **sparse
    )
    found = read(path, 0, 0, 0, 64, 64)
    np.testing.assert_array_equal(found[32:, :32], pixels[:32])
    np.testing.assert_array_equal(found[:32, 32:], pixels[32:])
    assert np.all(found[:32, :32] == 255)


@pytest.mark.parametrize("order", [None, BY_COLUMNS], ids=["by rows", "by columns"])
def test_an_order_that_is_not_stated_is_taken_from_the_borders_of_the_tiles_and_said(
    tmp_path: Path, order: list[int] | None
) -> None:
    pixels = smooth_rgb8(96, 128)
    path = dicom_slide(tmp_path / "a.dcm", pixels, order=order, DimensionOrganizationType=None)
    np.testing.assert_array_equal(read(path, 0, 0, 0, 96, 128), pixels)
    (said,) = described(path).found_out
    assert f"they are in order of {'columns' if order else 'rows'}" in said
    with open_slide(path) as slide:
        assert slide.conversion["found_out"] == [said]


def test_an_order_that_is_not_stated_and_cannot_be_seen_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    path = dicom_slide(tmp_path / "a.dcm", noise, DimensionOrganizationType=None)
    with pytest.raises(SlideError, match="states no order of its tiles"):
        open_reader(path)


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "Modality": "CT"}, "of modality CT .* and no whole slide"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "OVERVIEW", "NONE"]}, "a label or an overview and no level"),
        ({"TotalPixelMatrixFocalPlanes": 3}, "z-stack of 3 planes"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "3 x 8 bits as PALETTE COLOR"),
        ({"PhotometricInterpretation": "YBR_FULL"}, "colour as YBR_FULL in Explicit VR Little Endian"),
        ({"PlanarConfiguration": 1}, "colour as planes of RGB"),
        ({"PixelRepresentation": 1}, "expected 8-bit colour"),
        ({"NumberOfFrames": 5}, "lacks 1 of 6 tiles"),
        ({"NumberOfFrames": 7}, "cut short|more than its 6 tiles"),
        ({"TotalPixelMatrixRows": None}, "is damaged DICOM"),
        ({"OpticalPathSequence": [path_item("1"), path_item("2")]}, "2 optical paths in colour"),
    ],
)
def test_what_is_no_slide_is_refused_in_a_sentence(tmp_path: Path, attributes: dict[str, Any], sentence: str) -> None:
    path = dicom_slide(tmp_path / "a.dcm", rgb8(64, 96), **attributes)
    with pytest.raises(SlideError, match=sentence):
        open_reader(path)


def test_a_slide_in_several_focal_planes_is_refused(tmp_path: Path) -> None:
    places = [placed(0, 0, 0.0), placed(0, 0, 0.001)]
    path = dicom_slide(
        tmp_path / "a.dcm", rgb8(64, 32), PerFrameFunctionalGroupsSequence=places, TotalPixelMatrixRows=32
    )
    with pytest.raises(SlideError, match="z-stack of 2 planes"):
        open_reader(path)


@pytest.mark.parametrize("jpeg", [True, False])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.97])
def test_a_file_that_is_cut_short_is_refused_before_any_pixel_is_read(tmp_path: Path, jpeg: bool, share: float) -> None:
    path = dicom_slide(tmp_path / "a.dcm", rgb8(300, 300), jpeg=jpeg)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(SlideError, match=r"a\.dcm"):
        open_reader(path)


def test_a_tile_that_does_not_decode_is_named_by_its_place(tmp_path: Path) -> None:
    path = dicom_slide(tmp_path / "a.dcm", rgb8(96, 96), jpeg=True)
    content, tile = path.read_bytes(), jpeg_bytes(rgb8(96, 96)[64:, 32:64])
    content = content.replace(tile, bytes(len(tile)))
    path.write_bytes(content)
    reader = open_reader(path)
    reader.read(0, 0, 0, 64, 96)
    with pytest.raises(SlideError, match=r"a\.dcm cannot be decoded at row 64, column 32"):
        reader.read(0, 70, 0, 10, 90)
    reader.close()


def test_two_slides_in_one_folder_are_refused(tmp_path: Path) -> None:
    dicom_slide(tmp_path / "a.dcm", rgb8(64, 64))
    dicom_slide(tmp_path / "b.dcm", rgb8(64, 64), SeriesInstanceUID="1.2.3.5")
    with pytest.raises(SlideError, match="holds 2 slides; give each a folder of its own"):
        open_reader(tmp_path)


def test_the_same_tiles_twice_are_refused(tmp_path: Path) -> None:
    dicom_slide(tmp_path / "a.dcm", rgb8(64, 64))
    dicom_slide(tmp_path / "b.dcm", rgb8(64, 64))
    with pytest.raises(SlideError, match="holds one tile of 64 x 64 px twice"):
        open_reader(tmp_path)
