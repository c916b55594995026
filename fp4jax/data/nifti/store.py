"""Prepared cases on disk: a folder of ``.npy`` files that are mapped into memory when used.

An entry's name has a hash of all that it depends on: the files (path, size, time of change) and the
options. It appears complete or not at all. Entries of files that have changed are not found again;
delete the folder to be rid of them.
"""

import json
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fp4jax.data.nifti.case import Case
from fp4jax.data.nifti.prepare import VERSION, Prepared
from fp4jax.data.nifti.resample import Three
from fp4jax.data.nifti.volume import find_file
from fp4jax.data.phantom import cache
from fp4jax.files import replacing_folder


def entry_name(
    case: Case, modalities: Sequence[str], regions: Sequence[str], spacing: Three | None
) -> str:
    """The folder's name for a case prepared with these options.

    Raises:
        ValueError: a file that does not exist.
    """
    table = {} if case.label is None else case.table
    return f"{_plain(case.id)}-" + cache.key(
        version=VERSION,
        files=signature(case, modalities),
        regions=[sorted(table.get(region, ())) for region in regions],
        allowed=sorted({0}.union(*table.values())),
        spacing=spacing,
    )


def signature(case: Case, modalities: Sequence[str]) -> list[Any]:
    """Path, channel, size and time of change of every file that a case is prepared from.

    Raises:
        ValueError: a file that does not exist.
    """
    files = [case.image(name) for name in modalities]
    files += [(path, None) for path in (case.label, case.mask) if path is not None]
    found = []
    for path, index in files:
        file = find_file(path)
        status = file.stat()
        found.append([str(file.resolve()), index, status.st_size, status.st_mtime_ns])
    return [*found, case.label is not None, case.mask is not None]


def save_entry(prepared: Prepared, entry: Path) -> None:
    """Writes an entry, unless another process was faster.

    Raises:
        ValueError: the folder cannot be written to, or the disk is full.
    """
    arrays = {"image": prepared.image}
    if prepared.bits is not None:
        arrays["bits"] = prepared.bits
        arrays["foreground"] = np.concatenate(prepared.foreground)
    record = {
        "version": VERSION,
        "box": prepared.image.shape,
        "voxels": [len(voxels) for voxels in prepared.foreground],
        "shape": prepared.shape,
        "offset": prepared.offset,
        "affine": prepared.affine.tolist(),
        "spacing": prepared.spacing,
    }
    try:
        with replacing_folder(entry, keep_existing=True) as new:
            for name, array in arrays.items():
                np.save(new / f"{name}.npy", array, allow_pickle=False)
            (new / "entry.json").write_text(json.dumps(record) + "\n", encoding="utf-8")
    except OSError as error:
        raise ValueError(
            f"Prepared volumes cannot be kept in {entry.parent} ({error}). Name a folder with room "
            "as cache or in FP4JAX_CACHE, or pass cache=False where all of them fit into memory."
        ) from error


def open_entry(entry: Path) -> Prepared | None:
    """An entry, its arrays mapped into memory; None if it is not there or damaged."""
    try:
        record = json.loads((entry / "entry.json").read_text(encoding="utf-8"))
        image = _map(entry / "image.npy")
        bits = _map(entry / "bits.npy") if record["voxels"] else None
        if list(image.shape) != record["box"] or (
            bits is not None and bits.shape != image.shape[:3]
        ):
            raise ValueError("arrays of another shape")
        voxels: tuple[np.ndarray, ...] = ()
        if record["voxels"]:
            ends = np.cumsum(record["voxels"])
            every = _map(entry / "foreground.npy") if ends[-1] else np.zeros(0, np.int32)
            if len(every) != ends[-1]:
                raise ValueError("another number of voxels")
            voxels = tuple(np.split(every, ends[:-1]))
        x, y, z = record["offset"]
        nx, ny, nz = record["shape"]
        affine = np.asarray(record["affine"], np.float64)
        dx, dy, dz = record["spacing"]
        return Prepared(image, bits, voxels, (nx, ny, nz), (x, y, z), affine, (dx, dy, dz))
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        if entry.exists():
            shutil.rmtree(entry, ignore_errors=True)
        return None


#: NumPy reads the header of a file by ``ast``, which up to Python 3.12 fails now and then with a
#: SystemError where two threads parse at once (python/cpython#106905).
_parsing = threading.Lock()


def _map(path: Path) -> np.ndarray:
    # A plain view: np.memmap's own class makes indexing several times slower.
    with _parsing:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)[:80]
