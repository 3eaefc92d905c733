"""What identifies a slide's content: one SHA-256, whether it is a file, several, or an array."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from breastseg_deploy.errors import SlideError
from breastseg_deploy.io.readers.array import ArrayLike

_VALUES_AT_ONCE = 2**24


def files_sha256(files: Sequence[Path]) -> str:
    """A file's own hash; of several, that of a list of their hashes and names, in the form of sha256sum.

    Raises:
        SlideError: one cannot be read.
    """
    try:
        hashes = sorted((file.name, _file_sha256(file)) for file in files)
    except OSError as err:
        raise SlideError(f"cannot read {err.filename}: {err.strerror}; check its name and permissions") from err
    if len(hashes) == 1:
        return hashes[0][1]
    return hashlib.sha256("".join(f"{digest}  {name}\n" for name, digest in hashes).encode()).hexdigest()


def array_sha256(array: ArrayLike) -> str:
    """Of dtype and shape in words, and of the values row by row as little-endian bytes, whatever their layout."""
    dtype = np.dtype(array.dtype).newbyteorder("<")
    digest = hashlib.sha256(f"{dtype.newbyteorder('=').name} {tuple(array.shape)}\n".encode())
    rows = max(1, _VALUES_AT_ONCE // max(1, math.prod(array.shape[1:])))
    for top in range(0, array.shape[0], rows):
        digest.update(np.ascontiguousarray(np.asarray(array[top : top + rows]), dtype).data)
    return digest.hexdigest()


def _file_sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
