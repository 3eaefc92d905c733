"""Every way a bundle can be incomplete, altered or hostile, and the words it is refused with."""

from __future__ import annotations

import io
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from surgery import alter_golden, edit_manifest, put_sealed

from breastseg_deploy.bundle import MANIFEST, MODEL, NETWORK_FP16, Bundle, file_entry, golden_bytes
from breastseg_deploy.errors import BundleError

GOLDEN = "goldens/golden-1.npz"


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(BundleError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def flip_bit(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))


def test_whole_bundle_opens_with_its_manifest(demo_bundle: Path) -> None:
    bundle = Bundle.open(demo_bundle)
    assert bundle.path == demo_bundle
    assert bundle.manifest.frame.size_px == (128, 128)
    assert {MODEL, NETWORK_FP16, GOLDEN} <= bundle.manifest.files.keys()


def test_bundle_opens_by_a_path_in_words(demo_bundle: Path) -> None:
    assert Bundle.open(str(demo_bundle)).manifest == Bundle.open(demo_bundle).manifest


@pytest.mark.parametrize("name", ["missing", "a" * 300, "nul\0byte"])
def test_missing_folder_is_refused(tmp_path: Path, name: str) -> None:
    said = refusal(lambda: Bundle.open(tmp_path / name))
    assert said == f"no bundle at {tmp_path / name}: expected a folder made by breastseg-export"


def test_file_in_place_of_the_folder_is_refused(demo_bundle: Path) -> None:
    assert "expected a folder made by breastseg-export" in refusal(lambda: Bundle.open(demo_bundle / MODEL))


def test_missing_manifest_is_refused(bundle_copy: Path) -> None:
    (bundle_copy / MANIFEST).unlink()
    said = refusal(lambda: Bundle.open(bundle_copy))
    assert f"cannot read {bundle_copy / MANIFEST}" in said
    assert "expected a folder made by breastseg-export" in said


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    assert "manifest.json" in refusal(lambda: Bundle.open(tmp_path))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[]", b"null"])
def test_manifest_that_is_no_manifest_is_refused(bundle_copy: Path, content: bytes) -> None:
    (bundle_copy / MANIFEST).write_bytes(content)
    assert str(bundle_copy / MANIFEST) in refusal(lambda: Bundle.open(bundle_copy))


def test_newer_schema_is_refused(bundle_copy: Path) -> None:
    edit_manifest(bundle_copy, lambda raw: raw.update(schema_version=4))
    assert "has schema version 4, this version reads 3; update breastseg-deploy" in refusal(
        lambda: Bundle.open(bundle_copy)
    )


@pytest.mark.parametrize("name", [MODEL, NETWORK_FP16, "report.html", GOLDEN])
def test_missing_file_is_refused_by_name(bundle_copy: Path, name: str) -> None:
    (bundle_copy / name).unlink()
    said = refusal(lambda: Bundle.open(bundle_copy))
    assert said == f"cannot read {bundle_copy / name} (no such file or directory); copy the bundle again"


@pytest.mark.parametrize("name", [MODEL, GOLDEN])
def test_truncated_file_is_refused_with_both_sizes(bundle_copy: Path, name: str) -> None:
    size = (bundle_copy / name).stat().st_size
    os.truncate(bundle_copy / name, size - 1)
    said = refusal(lambda: Bundle.open(bundle_copy))
    assert said == f"{bundle_copy / name} has {size - 1} bytes, its manifest says {size}; copy the bundle again"


@pytest.mark.parametrize("name", [MODEL, NETWORK_FP16, GOLDEN, "report.html"])
@pytest.mark.parametrize("at", [0, 1000, -1])
def test_one_altered_bit_is_noticed(bundle_copy: Path, name: str, at: int) -> None:
    flip_bit(bundle_copy / name, at)
    said = refusal(lambda: Bundle.open(bundle_copy))
    assert (
        said == f"{bundle_copy / name} was altered: its SHA-256 is not the one in the manifest; copy the bundle again"
    )


def test_altered_hash_in_the_manifest_is_noticed(bundle_copy: Path) -> None:
    edit_manifest(bundle_copy, lambda raw: raw["files"][MODEL].update(sha256="0" * 64))
    assert "was altered" in refusal(lambda: Bundle.open(bundle_copy))


@pytest.mark.parametrize("name", ["../outside.bin", "goldens/../../outside.bin", "/etc/hostname", "..\\outside.bin"])
def test_file_names_out_of_the_bundle_are_refused_unread(bundle_copy: Path, name: str) -> None:
    (bundle_copy.parent / "outside.bin").write_bytes(b"outside")
    entry = file_entry(bundle_copy.parent / "outside.bin").model_dump()
    edit_manifest(bundle_copy, lambda raw: raw["files"].update({name: entry}))
    assert "leads out of the bundle" in refusal(lambda: Bundle.open(bundle_copy))


def test_link_to_other_content_is_noticed_by_its_hash(bundle_copy: Path) -> None:
    outside = bundle_copy.parent / "other.onnx"
    outside.write_bytes(b"other")
    (bundle_copy / MODEL).unlink()
    (bundle_copy / MODEL).symlink_to(outside)
    assert "has 5 bytes" in refusal(lambda: Bundle.open(bundle_copy))


def test_link_to_the_same_content_is_the_same_bundle(bundle_copy: Path) -> None:
    (bundle_copy / MODEL).rename(bundle_copy.parent / "moved.onnx")
    (bundle_copy / MODEL).symlink_to(bundle_copy.parent / "moved.onnx")
    assert Bundle.open(bundle_copy).read(MODEL)[:4]


@pytest.mark.parametrize("kind", ["pipe", "folder", "endless device"])
def test_what_is_no_regular_file_is_refused_and_never_waited_for(bundle_copy: Path, kind: str) -> None:
    place = bundle_copy / MODEL
    place.unlink()
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    else:
        place.symlink_to("/dev/zero")
    assert refusal(lambda: Bundle.open(bundle_copy)) == f"{place} is no regular file; copy the bundle again"


def test_manifest_without_the_model_is_refused(bundle_copy: Path) -> None:
    edit_manifest(bundle_copy, lambda raw: raw["files"].pop(MODEL))
    assert f"files lists no {MODEL}, which belongs to an artefact or is a golden" in refusal(
        lambda: Bundle.open(bundle_copy)
    )


def test_a_golden_or_an_artefact_that_is_no_file_of_the_manifest_is_refused(bundle_copy: Path) -> None:
    kept = (bundle_copy / MANIFEST).read_text()
    edit_manifest(bundle_copy, lambda raw: raw["goldens"].append("goldens/unlisted.npz"))
    assert "files lists no goldens/unlisted.npz" in refusal(lambda: Bundle.open(bundle_copy))
    (bundle_copy / MANIFEST).write_text(kept)
    edit_manifest(bundle_copy, lambda raw: raw["artefacts"][0]["files"].append("unlisted.onnx"))
    assert "files lists no unlisted.onnx" in refusal(lambda: Bundle.open(bundle_copy))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sigma_px", 5.001),
        ("gamma", 0.6),
        ("psi_rad", 0.1),
        ("zero_mean", True),
        ("orientations", 7),
        ("wavelengths_px", [4.0, 10.0, 21.0]),
        ("sha256", "0" * 64),
    ],
)
def test_gabor_parameters_that_do_not_make_the_exported_bank_are_refused(
    bundle_copy: Path, name: str, value: Any
) -> None:
    edit_manifest(bundle_copy, lambda raw: raw["gabor"].update({name: value}))
    assert "another Gabor bank than this version computes" in refusal(lambda: Bundle.open(bundle_copy))


@pytest.mark.parametrize(("name", "value"), [("wavelengths_px", [1.0]), ("orientations", 0), ("sigma_px", -5.0)])
def test_impossible_gabor_parameters_are_an_error_of_the_bundle(bundle_copy: Path, name: str, value: Any) -> None:
    edit_manifest(bundle_copy, lambda raw: raw["gabor"].update({name: value}))
    assert refusal(lambda: Bundle.open(bundle_copy)).startswith(f"{bundle_copy / MANIFEST}: ")


def test_a_normalisation_that_this_version_does_not_compute_is_refused(bundle_copy: Path) -> None:
    edit_manifest(bundle_copy, lambda raw: raw["normalisation"].update(mean=[0.5, 0.5, 0.5]))
    assert r"asks for the normalisation (0.5, 0.5, 0.5)" in refusal(lambda: Bundle.open(bundle_copy))


def test_file_altered_after_opening_is_noticed_when_it_is_read(bundle_copy: Path) -> None:
    bundle = Bundle.open(bundle_copy)
    flip_bit(bundle_copy / MODEL, 500)
    assert "was altered" in refusal(lambda: bundle.read(MODEL))


def test_file_gone_after_opening_is_noticed_when_it_is_read(bundle_copy: Path) -> None:
    bundle = Bundle.open(bundle_copy)
    shutil.rmtree(bundle_copy)
    assert "no such file or directory" in refusal(lambda: bundle.read(MODEL))


def test_golden_altered_after_opening_keeps_its_own_message(bundle_copy: Path) -> None:
    bundle = Bundle.open(bundle_copy)
    flip_bit(bundle_copy / GOLDEN, 500)
    said = refusal(bundle.goldens)
    assert (
        said == f"{bundle_copy / GOLDEN} was altered: its SHA-256 is not the one in the manifest; copy the bundle again"
    )


def test_files_outside_the_manifest_are_not_read(bundle_copy: Path) -> None:
    (bundle_copy / "extra.bin").write_bytes(b"extra")
    assert "holds no extra.bin" in refusal(lambda: Bundle.open(bundle_copy).read("extra.bin"))


def test_goldens_are_frames_with_the_masks_of_their_probabilities(demo_bundle: Path) -> None:
    bundle = Bundle.open(demo_bundle)
    goldens = bundle.goldens()
    assert [golden.name for golden in goldens] == list(bundle.manifest.goldens)
    for golden in goldens:
        assert golden.frame.shape == (128, 128, 3)
        np.testing.assert_array_equal(golden.mask, golden.probability >= bundle.manifest.threshold)


def test_golden_survives_the_way_to_bytes_and_back(bundle_copy: Path) -> None:
    golden = Bundle.open(bundle_copy).goldens()[0]
    put_sealed(bundle_copy, golden.name, golden_bytes(golden))
    again = Bundle.open(bundle_copy).goldens()[0]
    np.testing.assert_array_equal(again.frame, golden.frame)
    np.testing.assert_array_equal(again.probability, golden.probability)


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, crater: Path) -> None:
        self.crater = crater

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.crater),)


def test_golden_with_a_pickle_inside_is_refused_and_not_run(bundle_copy: Path, tmp_path: Path) -> None:
    golden, buffer = Bundle.open(bundle_copy).goldens()[0], io.BytesIO()
    bomb = np.array([Bomb(tmp_path / "crater")], object)
    np.savez(buffer, frame=bomb, probability=golden.probability, mask=golden.mask)
    put_sealed(bundle_copy, GOLDEN, buffer.getvalue())
    assert f"{bundle_copy / GOLDEN} is no golden frame (" in refusal(Bundle.open(bundle_copy).goldens)
    assert not (tmp_path / "crater").exists()


def npy_bytes() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


def zip_of(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"text", b"PK\x03\x04 cut", npy_bytes(), zip_of("frame.npy", b"\x93NUMPY"), zip_of("other.npy", npy_bytes())],
    ids=["empty", "text", "cut zip", "one array", "cut array", "other arrays"],
)
def test_golden_that_is_no_archive_of_its_arrays_is_refused(bundle_copy: Path, content: bytes) -> None:
    put_sealed(bundle_copy, GOLDEN, content)
    said = refusal(Bundle.open(bundle_copy).goldens)
    assert f"{bundle_copy / GOLDEN} is no golden frame (" in said
    assert said.endswith("export the bundle again")


def test_golden_of_another_size_is_refused(bundle_copy: Path) -> None:
    alter_golden(bundle_copy, frame=np.zeros((64, 64, 3), np.uint8))
    assert "is not of the size (128, 128) that it must have" in refusal(Bundle.open(bundle_copy).goldens)


def test_golden_of_other_dtypes_is_refused(bundle_copy: Path) -> None:
    alter_golden(bundle_copy, frame=np.zeros((128, 128, 3), np.uint16))
    assert "must hold uint8, finite float32 and uint8" in refusal(Bundle.open(bundle_copy).goldens)


def test_golden_with_nan_is_refused(bundle_copy: Path) -> None:
    alter_golden(bundle_copy, probability=np.full((128, 128), np.nan, np.float32), mask=np.zeros((128, 128), np.uint8))
    assert "must hold uint8, finite float32 and uint8" in refusal(Bundle.open(bundle_copy).goldens)


def test_threshold_altered_in_the_manifest_is_noticed_by_the_goldens(bundle_copy: Path) -> None:
    golden = Bundle.open(bundle_copy).goldens()[0]
    lowest = golden.probability[golden.mask == 1].min()
    just_above = float(np.nextafter(lowest, np.float32(1)))
    edit_manifest(bundle_copy, lambda raw: raw.update(threshold=just_above))
    assert "a mask that is not its probability at the threshold" in refusal(Bundle.open(bundle_copy).goldens)
