"""What lies in a folder in place of data that can be read, and what to do with it."""

import itertools
from collections.abc import Iterable
from pathlib import Path

# Endings of files that are images of another kind, or archives -> what to do.
_KINDS = {
    (".dcm", ".ima", "dicomdir"): "DICOM; convert them, for example with dcm2niix",
    (".mha", ".mhd", ".nrrd", ".mgz", ".img", ".hdr", ".mnc"): "no NIfTI; convert them",
    (".zip", ".tar", ".tgz", ".tar.gz", ".7z", ".rar"): "archives; unpack them",
    (".jpg", ".jpeg", ".bmp", ".gif", ".webp"): "not read; convert them to PNG or TIFF",
}
_LOOKED_AT = 10_000
_OPENED = 20
_PREAMBLE = 128  # bytes before the letters DICM


def others(files: Iterable[Path]) -> str:
    """A sentence about files that a user may have taken for data; empty if there are none.

    Files of DICOM are known by their names and, since many have names without an ending, by their
    content.

    Example:
        >>> others([Path("IM1.dcm")])
        ' Files such as IM1.dcm are DICOM; convert them, for example with dcm2niix.'
    """
    opened = 0
    for file in itertools.islice(files, _LOOKED_AT):
        name = file.name.lower()
        for endings, what in _KINDS.items():
            if name.endswith(endings):
                return f" Files such as {file.name} are {what}."
        if opened < _OPENED:
            opened += 1
            if _is_dicom(file):
                (what, *_) = _KINDS.values()
                return f" Files such as {file.name} are {what}."
    return ""


def _is_dicom(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            return stream.read(_PREAMBLE + 4)[_PREAMBLE:] == b"DICM"
    except OSError:
        return False
