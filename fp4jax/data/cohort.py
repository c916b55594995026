"""Cohort: the slices of a group of patients as arrays, whatever they were read from.

Everything downstream (splits, training, metrics) sees only this: uint8 images and 0/1 masks, the
patient and the position of every slice. On disk a cohort is a folder of ``.npy`` files, which are
mapped into memory when opened, and a ``cohort.json``.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from fp4jax.data.resize import resize_images, resize_masks
from fp4jax.files import expanded, replacing_folder

_ARRAYS = ("images", "masks", "patient_ids", "slice_index")
_SCANS = "scan_ids"
_FORMAT = 1


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Cohort:
    """Slices of patients, in order; n slices of h x w pixels and c channels.

    Attributes:
        images: uint8 (n, h, w, c).
        masks: uint8 (n, h, w), 1 where the pixel belongs to the lesion, else 0.
        patient_ids: str (n,), the patient of each slice.
        slice_index: int32 (n,), the position of each slice in its patient's volume.
        name: what the cohort is, for reports.
        channels: the names of the c channels.
        scan_ids: str (n,), the examination of each slice; None: one of each patient.

    Raises:
        ValueError: shapes, dtypes or mask values other than these, or a slice that occurs twice.

    Example:
        >>> import numpy as np
        >>> cohort = Cohort(
        ...     images=np.zeros((3, 4, 4, 1), np.uint8),
        ...     masks=np.zeros((3, 4, 4), np.uint8),
        ...     patient_ids=np.array(["b", "a", "a"]),
        ...     slice_index=np.array([1, 1, 2], np.int32),
        ...     name="tiny",
        ...     channels=("flair",),
        ... )
        >>> cohort.patients, len(cohort.select(["a"]))
        (('a', 'b'), 2)
    """

    images: np.ndarray
    masks: np.ndarray
    patient_ids: np.ndarray
    slice_index: np.ndarray
    name: str
    channels: tuple[str, ...]
    scan_ids: np.ndarray | None = None

    def __post_init__(self):
        object.__setattr__(self, "channels", tuple(self.channels))
        for field in self._fields:
            object.__setattr__(self, field, np.asanyarray(getattr(self, field)))
        problem = self._problem()
        if problem:
            raise ValueError(f"Cohort {self.name!r}: {problem}")

    def _problem(self) -> str | None:
        shape, ids, index = self.images.shape, self.patient_ids, self.slice_index
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            return (
                f"images are {self.images.dtype} {shape}; uint8 of shape (n, h, w, c) is needed. "
                "Scale intensities to 0..255 first."
            )
        if self.masks.dtype != np.uint8 or self.masks.shape != shape[:3]:
            return (
                f"masks are {self.masks.dtype} {self.masks.shape}; uint8 of shape {shape[:3]} is "
                "needed, one mask for each image."
            )
        if ids.dtype.kind != "U" or ids.shape != shape[:1]:
            return (
                f"patient_ids are {ids.dtype} {ids.shape}; strings of shape {shape[:1]} are needed."
            )
        scans = self.scan_ids
        if scans is not None and (scans.dtype.kind != "U" or scans.shape != shape[:1]):
            return f"scan_ids are {scans.dtype} {scans.shape}; strings {shape[:1]} are needed."
        if index.dtype != np.int32 or index.shape != shape[:1]:
            return f"slice_index is {index.dtype} {index.shape}; int32 {shape[:1]} is needed."
        if len(self.channels) != shape[3]:
            return (
                f"{len(self.channels)} channel names {self.channels} for {shape[3]} channels; "
                "name each channel once."
            )
        if self.masks.size and self.masks.max() > 1:
            return (
                f"masks have values up to {self.masks.max()}; only 0 and 1 are allowed. "
                "For 0/255 masks pass (masks > 0).astype(np.uint8)."
            )
        pairs = list(zip(ids.tolist(), index.tolist(), strict=True))
        if len(set(pairs)) != len(pairs):
            twice = next(p for i, p in enumerate(pairs) if p in pairs[:i])
            return (
                f"slice {twice[1]} of patient {twice[0]} occurs more than once; "
                "give every slice of a patient its own slice_index."
            )
        return None

    @property
    def _fields(self) -> tuple[str, ...]:
        return _ARRAYS if self.scan_ids is None else (*_ARRAYS, _SCANS)

    def __len__(self) -> int:
        return self.images.shape[0]

    def __repr__(self) -> str:
        n, h, w, _ = self.images.shape
        channels, count = ", ".join(self.channels), len(self.patients)
        return (
            f"Cohort({self.name!r}, {count} patient{'s' * (count != 1)}, {n} slices of {h}x{w}, "
            f"channels {channels})"
        )

    @functools.cached_property
    def patients(self) -> tuple[str, ...]:
        """The patients' ids, sorted, each once."""
        return tuple(np.unique(self.patient_ids).tolist())

    @functools.cached_property
    def scans(self) -> dict[str, tuple[str, ...]]:
        """The examinations of each patient, sorted."""
        scans = self.patient_ids if self.scan_ids is None else self.scan_ids
        pairs = sorted(set(zip(self.patient_ids.tolist(), scans.tolist(), strict=True)))
        found: dict[str, tuple[str, ...]] = {}
        for patient, scan in pairs:
            found[patient] = (*found.get(patient, ()), scan)
        return found

    @functools.cached_property
    def positive(self) -> np.ndarray:
        """bool (n,): whether the mask of the slice has any pixel."""
        return np.asarray(self.masks.any(axis=(1, 2)))

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(getattr(self, field).nbytes for field in self._fields)

    def select(self, patients: Iterable[str]) -> "Cohort":
        """The slices of these patients, in the order they have here (a copy).

        Raises:
            ValueError: a patient that the cohort does not have.
        """
        wanted = [patients] if isinstance(patients, str) else list(patients)
        unknown = sorted(set(wanted) - set(self.patients))
        if unknown:
            raise ValueError(
                f"Cohort {self.name!r} has no patients {unknown[:5]} ({len(unknown)} unknown); "
                f"it has {len(self.patients)}, such as {list(self.patients[:3])}."
            )
        return self._take(np.isin(self.patient_ids, np.asarray(wanted, np.str_)))

    def ordered(self) -> "Cohort":
        """The slices by patient, and by number; the cohort itself if they are."""
        order = np.lexsort((self.slice_index, self.patient_ids))
        return self if np.array_equal(order, np.arange(len(self))) else self._take(order)

    def _take(self, which: np.ndarray) -> "Cohort":
        return dataclasses.replace(
            self, **{field: getattr(self, field)[which] for field in self._fields}
        )

    def resize(self, size: int | tuple[int, int]) -> "Cohort":
        """The cohort at another size (or height and width) in pixels.

        Bilinear images and nearest-neighbour masks (:mod:`fp4jax.data.resize`).
        """
        height, width = (size, size) if isinstance(size, int) else size
        if self.images.shape[1:3] == (height, width):
            return self
        return dataclasses.replace(
            self,
            images=resize_images(self.images, (height, width)),
            masks=resize_masks(self.masks, (height, width)),
        )

    def save(self, folder: str | os.PathLike) -> Path:
        """Writes the cohort as a folder that :meth:`open` reads; all of it or nothing.

        A cohort that is there already is replaced.

        Raises:
            ValueError: the folder exists and holds something other than a cohort.
        """
        target = expanded(folder) or Path()
        if target.exists() and not _is_cohort_or_empty(target):
            raise ValueError(
                f"{target} exists and is not a saved cohort; name a new or an empty folder."
            )
        with replacing_folder(target) as new:
            for field in self._fields:
                np.save(new / f"{field}.npy", getattr(self, field), allow_pickle=False)
            record = {
                "format": _FORMAT,
                "name": self.name,
                "channels": self.channels,
                "shape": self.images.shape,
            }
            (new / "cohort.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        return target

    @classmethod
    def open(cls, folder: str | os.PathLike) -> "Cohort":
        """The cohort that :meth:`save` wrote, its images and masks mapped into memory.

        Raises:
            ValueError: not a saved cohort, or a damaged one.
        """
        folder = expanded(folder) or Path()
        try:
            record = json.loads((folder / "cohort.json").read_text(encoding="utf-8"))
            if record["format"] != _FORMAT:
                raise ValueError(f"format {record['format']}, not {_FORMAT}")
            arrays = {
                field: np.load(
                    folder / f"{field}.npy",
                    mmap_mode="r" if field in ("images", "masks") else None,
                    allow_pickle=False,
                )
                for field in (*_ARRAYS, _SCANS)
                if field in _ARRAYS or (folder / f"{field}.npy").exists()
            }
            if list(arrays["images"].shape) != record["shape"]:
                raise ValueError(f"images are {arrays['images'].shape}, not {record['shape']}")
            return cls(**arrays, name=record["name"], channels=tuple(record["channels"]))
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            raise ValueError(
                f"{folder} is not a saved cohort or is damaged ({error}); "
                "write it again with Cohort.save."
            ) from error


def _is_cohort_or_empty(folder: Path) -> bool:
    return folder.is_dir() and ((folder / "cohort.json").is_file() or not any(folder.iterdir()))
