"""DICOM SEG: read back it gives the mask pixel by pixel; what its slide lacks is refused or said."""

from __future__ import annotations

import shutil
import subprocess
import warnings
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from array_slide import ArraySlide
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from written import ArrayRaster

from breastseg_deploy.errors import SlideError
from breastseg_deploy.io.readers.dicom import WHOLE_SLIDE
from breastseg_deploy.slide.outputs import check_write
from breastseg_deploy.slide.writers.dicom_seg import check_source, write_dicom_seg

MADE_AT = datetime(2026, 11, 24, 10, 30, 5)
TILED_FULL_IS_UNKNOWN_TO_DCIODVFY = [
    f"Error - Missing attribute Type 1 Required Element=<{element}> Module=<{module}>"
    for element, module in (
        ("PlanePositionSequence", "PlanePositionMacro"),
        ("PlaneOrientationSequence", "PlaneOrientationMacro"),
        ("PlanePositionSlideSequence", "PlanePositionSlideMacro"),
        ("PerFrameFunctionalGroupsSequence", "MultiFrameFunctionalGroupsForSegmentation"),
    )
]


def dataset(**attributes: Any) -> pydicom.Dataset:
    made = pydicom.Dataset()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def code(value: str, scheme: str, meaning: str) -> pydicom.Dataset:
    return dataset(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def slide_header(size_px: tuple[int, int]) -> pydicom.Dataset:
    """The header of a whole slide that lacks nothing."""
    specimen = dataset(
        SpecimenIdentifier="specimen 1",
        SpecimenUID="2.25.5",
        IssuerOfTheSpecimenIdentifierSequence=[],
        SpecimenPreparationSequence=[],
    )
    measures = dataset(PixelSpacing=[0.00025, 0.00025], SliceThickness=0.002)
    header = dataset(
        SOPClassUID=WHOLE_SLIDE, SOPInstanceUID="2.25.1", SeriesInstanceUID="2.25.2", StudyInstanceUID="2.25.3",
        FrameOfReferenceUID="2.25.4", PositionReferenceIndicator="SLIDE_CORNER", Modality="SM",
        PatientID="patient", PatientName="Doe^Jane", PatientBirthDate="19500102", PatientSex="F",
        StudyID="study", StudyDate="20260102", StudyTime="101112", AccessionNumber="A1", ReferringPhysicianName="Roe^R",
        ContainerIdentifier="slide 1", IssuerOfTheContainerIdentifierSequence=[],
        ContainerTypeCodeSequence=[code("433466003", "SCT", "Microscope slide")],
        SpecimenDescriptionSequence=[specimen],
        Rows=256, Columns=256, SamplesPerPixel=3, BitsAllocated=8, PhotometricInterpretation="RGB", NumberOfFrames=1,
        LossyImageCompression="00", TotalPixelMatrixRows=size_px[0], TotalPixelMatrixColumns=size_px[1],
        TotalPixelMatrixOriginSequence=[dataset(XOffsetInSlideCoordinateSystem=20, YOffsetInSlideCoordinateSystem=40)],
        ImageOrientationSlide=[0, -1, 0, -1, 0, 0],
        SharedFunctionalGroupsSequence=[dataset(PixelMeasuresSequence=[measures])],
    )  # fmt: skip
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    return header


def saved(header: pydicom.Dataset, path: Path) -> Path:
    header.save_as(path, enforce_file_format=True)
    return path


def write(path: Path, mask: NDArray[Any], source: Path, pixel_size_um: float | None = None) -> tuple[str, ...]:
    raster = ArrayRaster(mask)
    return write_dicom_seg(path, raster, source, pixel_size_um=pixel_size_um, identity="run", made_at=MADE_AT)


def read_mask(path: Path) -> NDArray[Any]:
    return np.asarray(highdicom.seg.segread(path).get_total_pixel_matrix(combine_segments=True))


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 1)))
def test_a_mask_comes_back_pixel_by_pixel(tmp_path: Path, mask: Any) -> None:
    write(tmp_path / "seg.dcm", mask, saved(slide_header(mask.shape), tmp_path / "slide.dcm"))
    np.testing.assert_array_equal(read_mask(tmp_path / "seg.dcm"), mask)


def test_a_mask_of_several_tiles_comes_back_pixel_by_pixel(tmp_path: Path) -> None:
    mask = np.random.default_rng(5).random((700, 1100)) < 0.4
    write(tmp_path / "seg.dcm", mask, saved(slide_header(mask.shape), tmp_path / "slide.dcm"))
    np.testing.assert_array_equal(read_mask(tmp_path / "seg.dcm"), mask)


def test_it_belongs_to_its_slide_and_patient(tmp_path: Path) -> None:
    mask = np.ones((20, 30), np.uint8)
    assert write(tmp_path / "seg.dcm", mask, saved(slide_header(mask.shape), tmp_path / "slide.dcm")) == ()
    written = pydicom.dcmread(tmp_path / "seg.dcm")
    assert written.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == "2.25.1"
    assert (written.PatientID, written.PatientName, written.StudyInstanceUID) == ("patient", "Doe^Jane", "2.25.3")
    assert (written.FrameOfReferenceUID, written.ContainerIdentifier) == ("2.25.4", "slide 1")
    assert written.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing == [0.00025, 0.00025]
    assert (written.SegmentationType, written.DimensionOrganizationType) == ("BINARY", "TILED_FULL")


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    source = saved(slide_header((20, 30)), tmp_path / "slide.dcm")
    for name in ("first.dcm", "second.dcm"):
        write(tmp_path / name, np.ones((20, 30), np.uint8), source)
    assert (tmp_path / "first.dcm").read_bytes() == (tmp_path / "second.dcm").read_bytes()


def test_of_a_folder_the_file_of_the_full_resolution_is_taken(tmp_path: Path) -> None:
    for name, size_px in (("a.dcm", (10, 15)), ("b.dcm", (20, 30))):
        header = slide_header(size_px)
        header.SOPInstanceUID = f"2.25.{size_px[0]}"
        (tmp_path / "slide").mkdir(exist_ok=True)
        saved(header, tmp_path / "slide" / name)
    (tmp_path / "slide" / "notes.txt").write_text("no DICOM")
    write(tmp_path / "seg.dcm", np.ones((20, 30), np.uint8), tmp_path / "slide")
    written = pydicom.dcmread(tmp_path / "seg.dcm")
    assert written.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == "2.25.20"


def test_what_was_made_up_is_said_attribute_by_attribute(tmp_path: Path) -> None:
    header = slide_header((20, 30))
    for keyword in (
        "PatientBirthDate", "FrameOfReferenceUID", "PositionReferenceIndicator", "ImageOrientationSlide",
        "TotalPixelMatrixOriginSequence", "SharedFunctionalGroupsSequence", "ContainerIdentifier",
    ):  # fmt: skip
        del header[keyword]
    header.PatientSex = "X"
    said = write(tmp_path / "seg.dcm", np.ones((20, 30), np.uint8), saved(header, tmp_path / "slide.dcm"), 0.5)
    assert [line.partition(":")[0] for line in said] == [
        "PatientBirthDate", "PatientSex", "ContainerIdentifier, SpecimenDescriptionSequence", "FrameOfReferenceUID",
        "PositionReferenceIndicator", "ImageOrientationSlide", "TotalPixelMatrixOriginSequence", "PixelSpacing",
        "SliceThickness",
    ]  # fmt: skip
    assert "PatientSex: left empty, the slide states 'X', which is not valid" in said
    assert "PixelSpacing: 0.0005 mm, the pixel size of this run" in said
    np.testing.assert_array_equal(read_mask(tmp_path / "seg.dcm"), np.ones((20, 30)))


@pytest.mark.parametrize(
    ("keyword", "message"),
    [
        ("StudyInstanceUID", r"lacks StudyInstanceUID, which a DICOM segmentation refers to"),
        ("SharedFunctionalGroupsSequence", r"states no PixelSpacing.*--mpp$"),
        ("Rows", r"^no DICOM segmentation can refer to .*Rows"),
        ("SOPClassUID", r"is no DICOM whole slide"),
    ],
)
def test_what_cannot_be_made_up_is_refused(tmp_path: Path, keyword: str, message: str) -> None:
    header = slide_header((20, 30))
    source = saved(header, tmp_path / "slide.dcm")
    del header[keyword]
    if keyword == "SOPClassUID":
        header.SOPClassUID = pydicom.uid.CTImageStorage
    saved(header, source)
    with pytest.raises(SlideError, match=message):
        write(tmp_path / "seg.dcm", np.ones((20, 30), np.uint8), source)
    with pytest.raises(SlideError, match=message):
        check_source(source, (20, 30), None)
    assert not (tmp_path / "seg.dcm").exists()


def test_a_slide_that_no_segmentation_can_refer_to_is_refused_before_the_long_work(tmp_path: Path) -> None:
    header = slide_header((20, 30))
    del header["StudyInstanceUID"]
    slide = ArraySlide(np.zeros((20, 30, 3), np.uint8))
    slide.info = replace(slide.info, format="DICOM", files=(saved(header, tmp_path / "slide.dcm"),))
    with pytest.raises(SlideError, match="lacks StudyInstanceUID"):
        check_write(["dicom-seg"], slide)


def test_a_mask_on_another_grid_than_its_slide_is_refused(tmp_path: Path) -> None:
    source = saved(slide_header((20, 30)), tmp_path / "slide.dcm")
    with pytest.raises(SlideError, match=r"the mask has \(10, 15\); .* run without --rescale"):
        write(tmp_path / "seg.dcm", np.ones((10, 15), np.uint8), source)


def test_a_mask_beyond_four_gigabytes_is_refused_before_the_slide_is_read(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match=r"of \(200000, 200000\) px would pass 4 GB"):
        check_source(tmp_path / "slide.dcm", (200_000, 200_000), 0.25)


def test_a_source_that_is_no_dicom_is_refused(tmp_path: Path) -> None:
    (tmp_path / "slide.tif").write_bytes(b"II*\0")
    with pytest.raises(SlideError, match=r"slide.tif is no DICOM whole slide"):
        write(tmp_path / "seg.dcm", np.ones((10, 15), np.uint8), tmp_path / "slide.tif")


@pytest.mark.data
def test_a_published_slide_with_gaps_is_segmented_and_each_gap_said(tmp_path: Path, microscopy: Any) -> None:
    source = microscopy("formats") / "TCGA-XK-AAJU_small_wsi.dcm"
    mask = np.random.default_rng(6).random((2638, 3236)) < 0.3
    said = write(tmp_path / "seg.dcm", mask, source, 0.5)
    assert "StudyDate: left empty, the slide states '2021-01-07', which is not valid" in said
    assert "SOPInstanceUID: repeated as the slide states it, though longer than 64 characters" in said
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom on the slide's own long names
        np.testing.assert_array_equal(read_mask(tmp_path / "seg.dcm"), mask)


def test_dciodvfy_finds_nothing_but_what_it_does_not_know_of_tiled_full(tmp_path: Path) -> None:
    checker = shutil.which("dciodvfy")
    if checker is None:
        pytest.skip("no dciodvfy here: apt-get install dicom3tools")
    mask = np.random.default_rng(7).random((700, 1100)) < 0.4
    write(tmp_path / "seg.dcm", mask, saved(slide_header(mask.shape), tmp_path / "slide.dcm"))
    said = subprocess.run([checker, tmp_path / "seg.dcm"], capture_output=True, text=True, check=False)
    lines = (said.stdout + said.stderr).splitlines()
    assert [line for line in lines if line.startswith(("Error", "Warning"))] == TILED_FULL_IS_UNKNOWN_TO_DCIODVFY
