"""A line of text inside a PNG file: what a mask was made of goes where the mask goes, and is written with it."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_FIRST_CHUNK = 8 + 4 + 4 + 13 + 4
"""The end of the signature and of IHDR: length, name, 13 bytes, checksum (PNG, 3rd edition, 5.2 and 11.2.1)."""
_MOST_BYTES = 1024


def with_text(png: bytes, key: str, text: str) -> bytes:
    """The PNG with a tEXt chunk behind its header; decoders that do not know the key pass over it.

    Args:
        png: a PNG file's bytes.
        key: Latin-1, 1 to 79 characters.
        text: Latin-1, a few hundred characters.
    """
    content = b"tEXt" + key.encode("latin-1") + b"\0" + text.encode("latin-1")
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    return png[:_FIRST_CHUNK] + chunk + png[_FIRST_CHUNK:]


def text_of(path: Path, key: str) -> str | None:
    """What `with_text` wrote under that key; None where it wrote nothing, or the file cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(_FIRST_CHUNK + _MOST_BYTES)
    except OSError:
        return None
    chunk = head[_FIRST_CHUNK:]
    if not head.startswith(_SIGNATURE) or chunk[4:8] != b"tEXt":
        return None
    content = chunk[4 : 8 + int.from_bytes(chunk[:4])]
    name, _, text = content[4:].partition(b"\0")
    checksum = chunk[len(content) + 4 : len(content) + 8]
    if name != key.encode("latin-1") or checksum != struct.pack(">I", zlib.crc32(content)):
        return None
    return text.decode("latin-1")
