"""A bundle as a CMake project for scanner software in C++: one header, one program, goldens as raw arrays."""

from __future__ import annotations

import hashlib
from importlib.resources import files

from breastseg_deploy.bundle import MANIFEST, MODEL, Bundle
from breastseg_export.packages.documentation import model_page
from breastseg_export.packages.package import Files, Package, golden_arrays, manifest_bytes, portable_model

_SOURCES = ("CMakeLists.txt", "breastseg.hpp", "main.cpp")


def _files(bundle: Bundle) -> Files:
    about = manifest_bytes(bundle)
    for name in _SOURCES:
        yield name, (files("breastseg_export.packages") / "cpp_project" / name).read_bytes()
    yield "manifest.sha256", f"{hashlib.sha256(about).hexdigest()}\n".encode()
    yield f"bundle/{MANIFEST}", about
    yield f"bundle/{MODEL}", portable_model(bundle)
    for name, content in golden_arrays(bundle):
        yield f"bundle/{name}", content
    yield "README.md", _page(bundle).encode()


def _page(bundle: Bundle) -> str:
    return f"""{model_page(bundle)}
## Building
Needs a C++17 compiler, CMake and OpenVINO, whose Python package brings headers, libraries and CMake files:

    pip install "openvino>=2026.2"
    OPENVINO=$(python -c 'import openvino; print(openvino.__path__[0])')
    cmake -S . -B build -DCMAKE_PREFIX_PATH="$OPENVINO"
    cmake --build build
    ctest --test-dir build --output-on-failure
    build/breastseg bundle FRAME.ppm MASK.pgm

`ctest` holds the goldens to the limit of the manifest. The engine is ONNX Runtime with
`-DBREASTSEG_ONNXRUNTIME=ON -DONNXRUNTIME_INCLUDE=DIR -DONNXRUNTIME_LIBRARY=FILE`. The program holds the SHA-256 of this
bundle's manifest and refuses every other one.
"""


CPP = Package(
    "scanner software in C++",
    _files,
    f"bundle/{MANIFEST}",
    frozenset({*_SOURCES, "manifest.sha256", "bundle", "README.md", "build"}),
)
