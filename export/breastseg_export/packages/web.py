"""A bundle as a static web page: the browser segments, and nothing is sent anywhere."""

from __future__ import annotations

import base64
import hashlib
import io
import shutil
import subprocess
import tarfile
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

from breastseg_deploy.bundle import MANIFEST, MODEL, Bundle
from breastseg_deploy.errors import MachineError
from breastseg_export.packages.documentation import model_page
from breastseg_export.packages.package import Files, Package, golden_arrays, manifest_bytes, portable_model

_ENGINE = "onnxruntime-web@1.30.0"
_ENGINE_SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""As the npm registry gives it: what is packaged is what was tested."""
_ENGINE_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_DOWNLOAD_S = 300
_REASON_LENGTH = 200


def _files(bundle: Bundle) -> Files:
    about = manifest_bytes(bundle)
    place = files("breastseg_export.packages") / "web_page"
    page = (place / "index.html").read_text("utf-8").replace("@MANIFEST_SHA256@", hashlib.sha256(about).hexdigest())
    yield "index.html", page.encode()
    yield "app.mjs", (place / "app.mjs").read_bytes()
    yield from _engine()
    yield f"bundle/{MANIFEST}", about
    yield f"bundle/{MODEL}", portable_model(bundle)
    for name, content in golden_arrays(bundle):
        yield f"bundle/{name}", content
    yield "README.md", _page(bundle).encode()


def _engine() -> Files:
    """The engine's files and its licence, from npm, held to their hash.

    Raises:
        MachineError: there is no npm, it cannot get the package, or the package is another one.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise MachineError(
            f"the web page needs {_ENGINE}, which npm brings; install Node.js with npm (apt install npm)"
        )
    with TemporaryDirectory() as folder:
        try:
            subprocess.run(
                [npm, "pack", "--silent", "--pack-destination", folder, _ENGINE],
                cwd=folder, capture_output=True, check=True, text=True, timeout=_DOWNLOAD_S,
            )  # fmt: skip
            content = next(Path(folder).glob("*.tgz")).read_bytes()
        except (subprocess.SubprocessError, OSError, StopIteration) as err:
            said = " ".join(str(getattr(err, "stderr", "") or err).split())[:_REASON_LENGTH]
            raise MachineError(f"npm cannot get {_ENGINE} ({said}); look at `npm pack {_ENGINE}` by hand") from err
    found = base64.b64encode(hashlib.sha512(content).digest()).decode()
    if found != _ENGINE_SHA512:
        raise MachineError(
            f"{_ENGINE} from npm has another SHA-512 than the one that was tested; look at npm's registry"
        )
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for name in _ENGINE_FILES:
            yield f"ort/{name}", _member(archive, f"package/dist/{name}")


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None, f"{name} is a file of the archive whose hash was checked"
    return file.read()


def _page(bundle: Bundle) -> str:
    return f"""{model_page(bundle)}
## Opening it
The page checks the hashes of what it loads, which browsers allow over https or from localhost alone:

    python -m http.server --bind 127.0.0.1 --directory . 8000

Everything lies in this folder: the page works without a network, and its Content-Security-Policy forbids any
other address.
The engine is ONNX Runtime Web ({_ENGINE}, MIT licence, copyright Microsoft Corporation).
"""


WEB = Package(
    "web browsers",
    _files,
    f"bundle/{MANIFEST}",
    frozenset({"index.html", "app.mjs", "ort", "bundle", "README.md"}),
)
