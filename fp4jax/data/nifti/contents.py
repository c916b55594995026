"""What is in a NIfTI file, whatever its name says: compression, and what tells contents apart."""

import bz2
import gzip
import hashlib
import io
import lzma
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

_BLOCKS, _BLOCK = 16, 1 << 16
_MOST_LAYERS = 3

#: First bytes -> name and function that opens the stream within.
_LAYERS: dict[bytes, tuple[str, Callable[..., Any]]] = {
    b"\x1f\x8b": ("gzip", gzip.open),
    b"BZh": ("bzip2", bz2.open),
    b"\xfd7zXZ\0": ("xz", lzma.open),
}
_OTHERS = {
    b"PK\x03\x04": "a zip archive; unpack it",
    b"Rar!": "a RAR archive; unpack it",
    b"7z\xbc\xaf": "a 7z archive; unpack it",
    b"\x28\xb5\x2f\xfd": "one compressed by zstd; unpack it",
    b"version https://git-lfs": "a pointer of Git LFS; run git lfs pull",
    b"/annex/objects": "a pointer of git-annex; run git annex get",
    b"<": "a web page; download it again",
    b"NRRD": "one of NRRD; convert it to NIfTI",
    b"ObjectType": "one of MetaImage; convert it to NIfTI",
}


def layers(file: Path) -> list[str]:
    """How a file is compressed, from outside to inside; none if it is not.

    Raises:
        OSError: it cannot be read.
    """
    found: list[str] = []
    with file.open("rb") as stream:
        inner: Any = stream
        while (kind := _kind(inner)) and len(found) < _MOST_LAYERS:
            found.append(kind[0])
            inner = kind[1](inner)
    return found


def content(file: Path) -> bytes:
    """A file's bytes, uncompressed.

    Raises:
        OSError, EOFError, zlib.error, lzma.LZMAError: it cannot be read, or is damaged.
    """
    data = file.read_bytes()
    for _ in layers(file):
        kind = _kind(io.BytesIO(data))
        if kind is not None:
            data = kind[1](io.BytesIO(data)).read()
    return data


def is_as_named(file: Path) -> bool:
    """Whether nibabel can go by a file's name: .nii is not compressed, .nii.gz by gzip, once."""
    name = file.name
    if not name.endswith((".nii", ".nii.gz", ".NII", ".NII.GZ")):
        return False
    return layers(file) == (["gzip"] if name.lower().endswith(".gz") else [])


def other_kind(file: Path) -> str | None:
    """What a file is that is no NIfTI file, and what to do, where its first bytes show it."""
    try:
        with file.open("rb") as stream:
            start = stream.read(64)
    except OSError:
        return None
    found = (text for first, text in _OTHERS.items() if start.lstrip().startswith(first))
    return next(found, "an empty file (0 bytes); copy it again" if not start else None)


def fingerprint(file: Path) -> str:
    """What tells a file apart from others, read quickly: its length and a checksum.

    A gzip file counts with the length and the checksum of its content, which gzip keeps at the end,
    so that another level of compression makes no difference; any other with its length and 16
    blocks of 64 KiB spread over it.

    Raises:
        OSError: it cannot be read.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        if stream.read(2) == b"\x1f\x8b" and size > 18:
            stream.seek(-8, os.SEEK_END)
            return f"gzip {size} {stream.read().hex()}"
        found = hashlib.sha256()
        for i in range(_BLOCKS):
            stream.seek(max(size - _BLOCK, 0) * i // (_BLOCKS - 1))
            found.update(stream.read(_BLOCK))
    return f"file {size} {found.hexdigest()}"


def checksum(file: Path) -> str:
    """CRC-32 and length of a file's bytes, as gzip has them of its content: 16 digits.

    Raises:
        OSError: it cannot be read.
    """
    crc, length = 0, 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            crc, length = zlib.crc32(block, crc), length + len(block)
    return (crc.to_bytes(4, "little") + (length % 2**32).to_bytes(4, "little")).hex()


def _kind(stream: Any) -> tuple[str, Callable[..., Any]] | None:
    """The compression of what comes next in a stream, which stays where it is."""
    place = stream.tell()
    try:
        start = stream.read(8)
    except (OSError, EOFError, zlib.error, lzma.LZMAError):
        return None
    stream.seek(place)
    return next((kind for first, kind in _LAYERS.items() if start.startswith(first)), None)
