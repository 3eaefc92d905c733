"""A bundle as a model of bioimage.io: `rdf.yaml` 0.5, tensors to test it with, a cover, documentation.

Source: the specification at https://bioimage-io.github.io/spec-bioimage-io, model description 0.5.
"""

from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from breastseg_deploy.bundle import MANIFEST, MODEL, Bundle
from breastseg_deploy.io.images import overlay, png_bytes
from breastseg_export.packages.documentation import model_page
from breastseg_export.packages.package import Files, Package, manifest_bytes, portable_model

_HALO_SHARE = 8
"""The rim that a tiled prediction should throw away, as a share of the frame's side: 64 of 512 px."""
_TOLERANCE = {"absolute_tolerance": 1e-3, "relative_tolerance": 1e-3, "mismatched_elements_per_million": 100}
"""Other builds of ONNX Runtime sum in another order; the goldens' Dice limits stand in the bundle's manifest."""


def _files(bundle: Bundle) -> Files:
    golden = bundle.goldens()[0]
    cover = np.hstack([golden.frame, overlay(golden.frame, golden.mask)])
    contents = {
        MODEL: portable_model(bundle),
        "README.md": model_page(bundle).encode(),
        "cover.png": png_bytes(cover),
        "test_frames.npy": _npy(golden.frame[np.newaxis]),
        "test_probability.npy": _npy(golden.probability[np.newaxis, np.newaxis]),
        "sample_frames.png": png_bytes(golden.frame),
        "sample_mask.png": png_bytes(golden.mask * 255),
        MANIFEST: manifest_bytes(bundle),
    }
    yield from contents.items()
    yield "rdf.yaml", yaml.safe_dump(_description(bundle, contents), sort_keys=False, allow_unicode=True).encode()


def _description(bundle: Bundle, contents: dict[str, bytes]) -> dict[str, Any]:
    manifest = bundle.manifest

    def file(name: str) -> dict[str, str]:
        return {"source": name, "sha256": hashlib.sha256(contents[name]).hexdigest()}

    return {
        "format_version": "0.5.0",
        "type": "model",
        "name": f"breastseg_deploy {manifest.name}",
        "description": f"Breast cells: UNet++ on {manifest.encoder}, from 8-bit RGB to the probability of a cell.",
        "covers": [file("cover.png")],
        "documentation": file("README.md"),
        "tags": ["segmentation", "2d", "nuclei", "cells", "breast", "fluorescence-light-microscopy", "unet2d", "onnx"],
        "timestamp": manifest.built_at,
        "inputs": [
            {
                "id": "frames",
                "description": "8-bit RGB frame; a grey one repeats its channel three times",
                "axes": [{"type": "batch"}, *_space(bundle), {"type": "channel", "channel_names": ["r", "g", "b"]}],
                "data": {"type": "uint8", "range": [0, 255]},
                "test_tensor": file("test_frames.npy"),
                "sample_tensor": file("sample_frames.png"),
            }
        ],
        "outputs": [
            {
                "id": "probability",
                "description": f"probability of a cell; the mask is 1 where it reaches {manifest.threshold}",
                "axes": [{"type": "batch"}, {"type": "channel", "channel_names": ["cell"]}, *_space_of_frames(bundle)],
                "data": {"type": "float32", "range": [0.0, 1.0]},
                "test_tensor": file("test_probability.npy"),
                "sample_tensor": file("sample_mask.png"),
            }
        ],
        "weights": {"onnx": {**file(MODEL), "opset_version": manifest.opset}},
        "config": {
            "bioimageio": {"reproducibility_tolerance": [_TOLERANCE]},
            "breastseg_deploy": {
                "manifest_sha256": hashlib.sha256(contents[MANIFEST]).hexdigest(),
                "threshold": manifest.threshold,
                "licence": manifest.licence,
                "intended_use": manifest.intended_use,
            },
        },
    }


def _space(bundle: Bundle) -> list[dict[str, Any]]:
    frame = bundle.manifest.frame
    return [{**_axis(bundle, axis), "size": size} for axis, size in zip("yx", frame.size_px, strict=True)]


def _space_of_frames(bundle: Bundle) -> list[dict[str, Any]]:
    halo = min(bundle.manifest.frame.size_px) // _HALO_SHARE
    return [{**_axis(bundle, axis), "size": {"tensor_id": "frames", "axis_id": axis}, "halo": halo} for axis in "yx"]


def _axis(bundle: Bundle, name: str) -> dict[str, Any]:
    pixel_um = bundle.manifest.frame.pixel_size_um
    scale = {} if pixel_um is None else {"scale": pixel_um, "unit": "micrometer"}
    return {"type": "space", "id": name, **scale}


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


_NAMES = frozenset(
    {
        MODEL,
        "README.md",
        "cover.png",
        "test_frames.npy",
        "test_probability.npy",
        "sample_frames.png",
        "sample_mask.png",
        MANIFEST,
        "rdf.yaml",
    }
)
BIOIMAGEIO = Package("bioimage.io and the tools that read its models", _files, MANIFEST, _NAMES)
