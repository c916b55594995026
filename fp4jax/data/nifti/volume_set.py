"""VolumeSet: cases as arrays for 3-D networks, read when they are asked for."""

import collections
import dataclasses
import functools
import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from fp4jax.data.nifti import store
from fp4jax.data.nifti.case import Case, canonical_all
from fp4jax.data.nifti.geometry import Geometry
from fp4jax.data.nifti.labels import REGIONS, check_regions, unpack_bits
from fp4jax.data.nifti.pool import check_workers, ordered
from fp4jax.data.nifti.prepare import Prepared, prepare
from fp4jax.data.nifti.resample import Three
from fp4jax.data.nifti.volume import Volume, find_file, read_geometry, read_volume
from fp4jax.data.phantom import cache as disk
from fp4jax.data.problems import refuse
from fp4jax.data.progress import track
from fp4jax.files import expanded

_OPEN = 64  # cases whose files are mapped at the same time, three files each
_REMEDY = "Repair or replace these files, or move these cases elsewhere."
_MOST_WORKERS = 4  # a case takes about 0.5 GB while it is prepared


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedCase:
    """One case, ready for a network, its axes in RAS.

    Attributes:
        id: the case's.
        image: float32 (x, y, z, c): of each modality the z-scores over the brain, background 0.
        target: uint8 (x, y, z, k), a 0/1 mask for each region; None without a label map.
        affine: voxel indices of ``image`` -> mm.
        spacing: of ``image`` in mm.
        case: its files and what its labels mean (``case.table``).
        geometry: the source's grid, orientation and header, for writing results.
        modalities, regions: the names of the c channels and of the k regions.
    """

    id: str
    image: np.ndarray
    target: np.ndarray | None
    affine: np.ndarray
    spacing: Three
    case: Case
    geometry: Geometry
    modalities: tuple[str, ...]
    regions: tuple[str, ...]

    @functools.cached_property
    def reference(self) -> Volume:
        """The first modality as it is in its file (in RAS), read when first asked for."""
        path, index = self.case.image(self.modalities[0])
        volume = read_volume(path, channels=None if index is None else (index,))
        return volume if index is None else dataclasses.replace(volume, data=volume.data[..., 0])


class VolumeSet:
    """Cases as arrays: chosen modalities as z-scores, chosen regions as masks.

    A case's images, its label map and its brain mask must lie on one grid. Each modality becomes
    (value - mean) / sd over the brain, and 0 elsewhere. The brain is the set's brain mask where it
    has one; else all that is not background, which is 0, or the value that all eight corners of
    the volume have. With ``spacing``, images are interpolated linearly and label maps by nearest
    neighbour (:mod:`fp4jax.data.nifti.resample`).

    Values are rounded to float16 (0.05 %). With a cache the result for each case is written once,
    cropped to the brain, as ``.npy`` files that are mapped into memory, about 30 MB for a BraTS
    case of four modalities: sets may be larger than memory.

    Args:
        cases: from :func:`~fp4jax.data.nifti.find_cases`.
        modalities: the channels, in this order; None means all of the first case.
        regions: the targets, in this order; names of each case's table (``LABELS``).
        spacing: (x, y, z) in mm along right, anterior and superior; None keeps each case's own.
        cache: folder for prepared cases; None means $FP4JAX_CACHE, else ~/.cache/fp4jax; False
            prepares a case at each ``load`` and keeps those in memory that patches are taken from.

    Raises:
        ValueError: no cases; a modality or region that a case does not have; unusable files (when
            they are loaded), named, with the remedy.

    Needs nibabel.

    Example::

        cases = find_cases("MICCAI_BraTS2020_TrainingData")
        volumes = VolumeSet(cases, ("flair", "t1c"), spacing=(1, 1, 1))
        volumes.load(0).image.shape     # (240, 240, 155, 2)
    """

    def __init__(
        self,
        cases: Iterable[Case],
        modalities: Sequence[str] | None = None,
        regions: Sequence[str] = REGIONS,
        spacing: Sequence[int | float] | None = None,
        *,
        cache: str | os.PathLike | bool | None = None,
    ):
        self.cases = tuple(cases)
        if not self.cases:
            raise ValueError("There are no cases; see find_cases.")
        self.modalities = canonical_all(
            self.cases[0].modalities if modalities is None else modalities
        )
        self.regions = tuple(regions)
        self.spacing = _checked_spacing(spacing)
        for case in self.cases:
            for name in self.modalities:
                case.image(name)
            if case.label is not None:
                check_regions(regions, case.table)
        if cache is True:
            raise ValueError("cache is True; name a folder, or pass None for the default one.")
        self._folder = None
        if cache is not False:
            self._folder = (expanded(cache) or disk.default_folder()) / "volumes"
        self._locks = [threading.Lock() for _ in self.cases]
        self._names: dict[int, str] = {}
        self._open: collections.OrderedDict[int, Prepared] = collections.OrderedDict()
        self._open_lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.cases)

    def __repr__(self) -> str:
        return (
            f"VolumeSet({len(self)} cases, modalities {', '.join(self.modalities)}, regions "
            f"{', '.join(self.regions)})"
        )

    @property
    def patients(self) -> tuple[str, ...]:
        """The patient of each case, to split by."""
        return tuple(case.patient for case in self.cases)

    def load(self, i: int) -> LoadedCase:
        """The whole volume of case i."""
        prepared = self._prepare(i) if self._folder is None else self.prepared(i)
        x, y, z = prepared.box
        image = np.zeros((*prepared.shape, len(self.modalities)), np.float32)
        image[x, y, z] = np.moveaxis(prepared.image, 0, 2)
        target = None
        if prepared.bits is not None:
            bits = np.zeros(prepared.shape, np.uint8)
            bits[x, y, z] = np.moveaxis(prepared.bits, 0, 2)
            target = unpack_bits(bits, len(self.regions))
        case = self.cases[i]
        return LoadedCase(
            id=case.id,
            image=image,
            target=target,
            affine=prepared.affine,
            spacing=prepared.spacing,
            case=case,
            geometry=read_geometry(find_file(case.image(self.modalities[0])[0])),
            modalities=self.modalities,
            regions=self.regions,
        )

    def prepared(self, i: int) -> Prepared:
        """Case i as the cache holds it; it is prepared if that has not been done yet."""
        with self._open_lock:
            if i in self._open:
                self._open.move_to_end(i)
                return self._open[i]
        with self._locks[i]:  # one thread prepares it, others wait
            with self._open_lock:
                if i in self._open:
                    return self._open[i]
            prepared = self._prepare(i) if self._folder is None else self._from_disk(i)
            with self._open_lock:
                self._open[i] = prepared
                while self._folder is not None and len(self._open) > _OPEN:
                    self._open.popitem(last=False)
            return prepared

    def prepare(self, indices: Iterable[int] | None = None, *, workers: int | None = None) -> None:
        """Prepares cases ahead of their use, with a progress bar.

        Args:
            indices: the cases; None means all.
            workers: threads, each with a case at a time; None means one for each core, at most 4.

        Raises:
            ValueError: unusable files: all cases are looked at, and one message lists the first
                ten.
        """
        which = list(range(len(self)) if indices is None else indices)
        workers = check_workers(workers, _MOST_WORKERS)

        def problem(i: int) -> str | None:
            try:
                self.prepared(i)
            except ValueError as error:
                return f"{self.cases[i].id}: {error}"
            return None

        done = ordered(problem, which, workers, 2 * workers)
        found = [one for one in track(done, "Preparing volumes", total=len(which)) if one]
        if found:
            files = [str(find.parent) for i in which for _, find, _ in self.cases[i].images]
            refuse(Path(os.path.commonpath(files)), found, _REMEDY)

    def _prepare(self, i: int) -> Prepared:
        return prepare(self.cases[i], self.modalities, self.regions, self.spacing)

    def _from_disk(self, i: int) -> Prepared:
        folder = self._folder or Path()
        if i not in self._names:
            self._names[i] = store.entry_name(
                self.cases[i], self.modalities, self.regions, self.spacing
            )
        entry = folder / self._names[i]
        found = store.open_entry(entry)
        if found is None:
            store.save_entry(self._prepare(i), entry)
            found = store.open_entry(entry)
        if found is None:
            raise ValueError(
                f"{entry} was written and cannot be read; check the disk, or name another cache."
            )
        return found


def _checked_spacing(spacing: Sequence[int | float] | None) -> Three | None:
    if spacing is None:
        return None
    values = [float(value) for value in spacing]
    if len(values) != 3 or not all(np.isfinite(value) and value > 0 for value in values):
        raise ValueError(f"spacing is {spacing!r}; give three lengths in mm, such as (1, 1, 1).")
    return values[0], values[1], values[2]
