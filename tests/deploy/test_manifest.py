"""The manifest: read before anything else, refused field by field."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from breastseg_deploy.artefacts import EngineEntry, check_details, details_of
from breastseg_deploy.errors import BundleError
from breastseg_deploy.manifest import Manifest, parse_manifest
from breastseg_deploy.preprocess.gabor import GaborParameters, bank_sha256

HASH = "0" * 64


def content() -> dict[str, Any]:
    """A manifest with every field, as JSON values."""
    limits = {"worst_dice": 0.9999, "mean_dice": 0.9999, "dice_change": 0.001}
    figures = {
        "engine": "ONNX Runtime",
        "frames": 2,
        "frames_with_cells": 1,
        "mean_dice": 1.0,
        "worst_dice": 1.0,
        "mean_dice_with_cells": 1.0,
        "worst_flipped_ppm": 0.0,
        "worst_surface_dice": 1.0,
        "largest_probability_error": 1e-6,
        "dice_change": None,
        "limits": limits,
    }
    gabor = GaborParameters()
    return {
        "schema_version": 3,
        "name": "tested",
        "encoder": "efficientnet-b0",
        "decoder_channels": [96, 64, 48, 32, 16],
        "frame": {"height_px": 128, "width_px": 96, "dtype": "uint8", "colour_order": "RGB", "pixel_size_um": 0.5},
        "gabor": {
            "wavelengths_px": list(gabor.wavelengths_px),
            "orientations": gabor.orientations,
            "sigma_px": gabor.sigma_px,
            "gamma": gabor.gamma,
            "psi_rad": gabor.psi_rad,
            "zero_mean": gabor.zero_mean,
            "sha256": bank_sha256(gabor),
        },
        "normalisation": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        "threshold": 0.5,
        "precision": "fp32",
        "opset": 20,
        "artefacts": [
            {
                "role": "portable",
                "files": ["model.onnx"],
                "inputs": [{"name": "frames", "axes": "NHWC", "dtype": "uint8"}],
                "outputs": [{"name": "probability", "axes": "NCHW", "dtype": "float32"}],
                "limits": limits,
                "parity": [figures],
            }
        ],
        "parity_frames": "2 phantom frames",
        "goldens": ["goldens/a.npz"],
        "files": {name: {"bytes": 3, "sha256": HASH} for name in ("model.onnx", "goldens/a.npz")},
        "built_with": {"python": "3.11"},
        "built_at": "2026-11-23T00:00:00+00:00",
        "licence": "none",
        "intended_use": "tests",
        "training": {},
    }


def parse(raw: Any) -> Manifest:
    return parse_manifest(json.dumps(raw), "manifest.json")


def test_every_field_survives_the_way_to_json_and_back() -> None:
    manifest = parse(content())
    assert parse_manifest(manifest.model_dump_json(), "again") == manifest
    assert manifest.frame.size_px == (128, 96)
    assert manifest.gabor.parameters() == GaborParameters()


@pytest.mark.parametrize("text", ["", "{", "no json", '{"schema_version": 1', "\ufeff{}", "[" * 100_000])
def test_text_that_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(BundleError, match=r"manifest.json is no JSON \(.*\); copy the bundle again or export it again"):
        parse_manifest(text, "manifest.json")


@pytest.mark.parametrize("raw", [[], [1, 2], "text", 1, None, {}, {"version": 1}])
def test_json_that_is_no_manifest_is_refused(raw: Any) -> None:
    with pytest.raises(
        BundleError, match="must be a JSON object with a schema_version; it was not made by breastseg-export"
    ):
        parse(raw)


@pytest.mark.parametrize("version", [1, 2, 4, 0, "3", None, 99])
def test_another_schema_version_is_named_before_anything_else_is_read(version: Any) -> None:
    with pytest.raises(
        BundleError, match=rf"has schema version {version!r}, this version reads 3; update breastseg-deploy"
    ):
        parse({"schema_version": version, "a field of the future": 1})


def test_unknown_fields_are_refused_by_name() -> None:
    with pytest.raises(BundleError, match=r"manifest.json: surprise: .*not permitted.* \(1 in all\); export it again"):
        parse({**content(), "surprise": 1})


def test_unknown_fields_inside_a_part_are_refused_by_name() -> None:
    raw = content()
    raw["frame"]["gamma"] = 2.2
    with pytest.raises(BundleError, match=r"frame.gamma"):
        parse(raw)


@pytest.mark.parametrize("name", sorted(set(content()) - {"schema_version"}))
def test_a_missing_field_is_refused_by_name(name: str) -> None:
    raw = content()
    del raw[name]
    with pytest.raises(BundleError, match=f"manifest.json: {name}: Field required"):
        parse(raw)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("frame", "height_px", 100),
        ("frame", "width_px", 0),
        ("frame", "width_px", -32),
        ("frame", "dtype", "uint16"),
        ("frame", "colour_order", "BGR"),
        ("frame", "pixel_size_um", 0),
        ("gabor", "sigma_px", "wide"),
        ("normalisation", "mean", [0.5]),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(part: str, name: str, value: Any) -> None:
    raw = content()
    raw[part][name] = value
    with pytest.raises(BundleError, match=f"{part}.{name}"):
        parse(raw)


@pytest.mark.parametrize("threshold", [0, 1, -0.5, 1.5, "half", None])
def test_thresholds_that_make_every_mask_full_or_empty_are_refused(threshold: Any) -> None:
    with pytest.raises(BundleError, match=r"manifest.json: threshold: "):
        parse({**content(), "threshold": threshold})


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_limits_that_are_not_finite_are_refused(value: str) -> None:
    """No Dice is under NaN: with such a limit every self-test would pass."""
    text = json.dumps(content()).replace('{"worst_dice": 0.9999', f'{{"worst_dice": {value}')
    assert value in text
    with pytest.raises(BundleError, match=r"artefacts.0.limits.worst_dice: .*finite"):
        parse_manifest(text, "manifest.json")


@pytest.mark.parametrize("name", ["../model.onnx", "goldens/../../x", "/etc/passwd", "..\\x", "C:x", "c:/x", "", "."])
def test_file_names_that_lead_out_of_the_bundle_are_refused(name: str) -> None:
    raw = content()
    raw["files"][name] = {"bytes": 1, "sha256": HASH}
    with pytest.raises(BundleError, match=r"files: .*leads out of the bundle"):
        parse(raw)


@pytest.mark.parametrize(("name", "value"), [("sha256", "0" * 63), ("sha256", "Z" * 64), ("bytes", -1)])
def test_file_entries_without_a_proper_size_and_hash_are_refused(name: str, value: Any) -> None:
    raw = content()
    raw["files"]["model.onnx"][name] = value
    with pytest.raises(BundleError, match=rf"files.model.onnx.{name}"):
        parse(raw)


def test_a_bundle_without_goldens_is_refused() -> None:
    with pytest.raises(BundleError, match="goldens"):
        parse({**content(), "goldens": []})


ENGINE = {
    "file": "engines/a.plan",
    "flavour": "tensorrt-rtx",
    "version": "1.7.1.116",
    "compute_capability": "8.6",
    "precision": "fp16",
    "min_batch": 1,
    "max_batch": 8,
    "workspace_bytes": 1 << 30,
    "gpu": "",
    "network_sha256": HASH,
    "layer_types": {"CONVOLUTION": {"FLOAT": 3, "HALF": 357}},
    "build_seconds": 5.8,
    "verified": False,
    "verification": "not run on a GPU",
}


def with_engine(**change: Any) -> dict[str, Any]:
    """A manifest with an engine in it."""
    raw = content()
    engine = {"role": "engine", "files": ["engines/a.plan"], "inputs": [], "outputs": [], "limits": None, "parity": []}
    raw["artefacts"].append({**engine, "details": {**ENGINE, **change}})
    raw["files"]["engines/a.plan"] = {"bytes": 3, "sha256": HASH}
    return raw


def test_engines_survive_the_way_to_json_and_back() -> None:
    manifest = parse(with_engine())
    assert parse_manifest(manifest.model_dump_json(), "again") == manifest
    (engine,) = details_of(manifest, "engine", EngineEntry)
    assert engine.layer_types["CONVOLUTION"] == {"FLOAT": 3, "HALF": 357}


def test_a_manifest_without_engines_has_none() -> None:
    assert details_of(parse(content()), "engine", EngineEntry) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("flavour", "openvino"),
        ("compute_capability", "sm86"),
        ("precision", "fp32"),
        ("max_batch", 0),
        ("network_sha256", "0" * 63),
        ("verified", "perhaps"),
        ("layer_types", [3, 357]),
    ],
)
def test_an_engine_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(BundleError, match=rf"the manifest's engine artefact: {name}"):
        check_details(parse(with_engine(**{name: value})))


def test_limits_belong_to_the_artefact_that_had_to_meet_them() -> None:
    raw = content()
    other = {**raw["artefacts"][0], "role": "fp16", "limits": {**raw["artefacts"][0]["limits"], "worst_dice": 0.9}}
    manifest = parse({**raw, "precision": "fp16", "artefacts": [other, *raw["artefacts"]]})
    assert manifest.limits_of("portable").worst_dice == 0.9999
    assert manifest.limits_of("fp16").worst_dice == 0.9


def test_an_artefact_whose_parity_was_never_measured_has_no_limits() -> None:
    for role in ("engine", "gate"):
        with pytest.raises(BundleError, match=rf"holds no parity of the artefact '{role}'; export the bundle again"):
            parse(with_engine()).limits_of(role)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda raw: raw["files"].pop("model.onnx"), "files lists no model.onnx"),
        (lambda raw: raw["files"].pop("goldens/a.npz"), "files lists no goldens/a.npz"),
        (lambda raw: raw["artefacts"][0].update(golden_dice=[1.0, 1.0]), "golden_dice must hold one figure for each"),
        (lambda raw: raw["artefacts"][0].update(golden_dice=[-5]), "greater than or equal to 0"),
        (lambda raw: raw.update(precision="int8"), r"precision int8 and the artefacts \[\] must agree"),
        (
            lambda raw: raw["artefacts"][0].update(role="int8"),
            r"precision fp32 and the artefacts \['int8'\] must agree",
        ),
        (lambda raw: raw.update(artefacts=[]), "at least 1 item"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(change: Callable[[Any], object], words: str) -> None:
    raw = content()
    change(raw)
    with pytest.raises(BundleError, match=words):
        parse(raw)


def test_messages_are_one_line() -> None:
    for raw in ({}, {"schema_version": 9}, {**content(), "threshold": 7, "files": {"../x": {}}}):
        with pytest.raises(BundleError) as refusal:
            parse(raw)
        assert "\n" not in str(refusal.value)


def test_a_parsed_manifest_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse(content()).threshold = 0.9  # type: ignore[misc]
