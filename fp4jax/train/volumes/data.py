"""VolumeData: the labelled cases of a run as the trainer takes them."""

import copy
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fp4jax.data import Split, nifti, patients as people, split_folds
from fp4jax.data.nifti import Case, LoadedCase, PatchSampler, VolumeSet
from fp4jax.data.nifti.pool import ordered
from fp4jax.train.task import Data, Examples, Feed, Source, exclusive
from fp4jax.train.volumes import scoring
from fp4jax.train.volumes.digest import digest, image_digests
from fp4jax.train.volumes.shares import split_patients

if TYPE_CHECKING:
    from fp4jax.train.config import RunConfig
    from fp4jax.train.model import Model
    from fp4jax.train.volumes.task import Volumes


class VolumeData(Data):
    """Cases, each of a patient; patches are drawn by workers while a step runs."""

    divides = True

    def __init__(
        self, task: "Volumes", cases: Sequence[Case], source: Source, *, unlabelled: int = 0
    ):
        self.task, self.unlabelled = task, unlabelled
        self.volumes = open_volumes(task, cases, source)
        self.channels, self.regions = self.volumes.modalities, self.volumes.regions
        self.patients = tuple(sorted(set(self.volumes.patients)))
        self._splits: dict[tuple[int, int], Sequence[Split]] = {}

    @functools.cached_property
    def digest(self) -> str:
        return digest(self.volumes.cases, self.channels, self.regions)

    @functools.cached_property
    def contents(self) -> dict[str, str]:
        """What tells the files of a patient's images apart, whatever their names are; all, each."""
        found = {}
        for patient in self.patients:
            cases = [self.volumes.cases[i] for i in self.places([patient])]
            whole = digest(cases, self.channels, self.regions, named=False)
            found[patient] = " ".join([whole, *image_digests(cases, self.channels)])
        return found

    def split(self, config: "RunConfig") -> Split:
        if config.fold is None:
            task = self.task
            return split_patients(self.patients, task.val_share, task.test_share, config.split_seed)
        key = (config.folds, config.split_seed)
        if key not in self._splits:  # a study asks for each of its runs
            self._splits[key] = split_folds(dict.fromkeys(self.patients, 0), *key)
        return config.of_folds(self._splits[key])

    def feed(self, config: "RunConfig", patients: Sequence[str], seed: int) -> "PatchFeed":
        return PatchFeed(self, config, self.places(patients), seed)

    def validate(self, model: "Model", patients: Sequence[str]) -> dict[str, float]:
        return scoring.validate(model, self, patients) if patients else {}

    def evaluate(self, model: "Model", split: Split, folder: Path) -> dict[str, Any]:
        return scoring.evaluate(model, self, split, folder)

    def score(
        self, model: "Model", patients: Sequence[str], threshold: float, folder: Path | None = None
    ) -> dict[str, Any]:
        return scoring.score(model, self, patients, threshold)

    def check(self, config: "RunConfig") -> None:
        if not exclusive(config):
            return
        for case in self.volumes.cases:
            values = [set(map(int, case.table[region])) for region in self.regions]
            if sum(map(len, values)) > len(set().union(*values)):
                raise ValueError(
                    f"the regions {', '.join(self.regions)} overlap, but the loss {config.loss} is "
                    "of classes that exclude each other; take bce_dice, or regions that do not."
                )

    def prepare(self, patients: Sequence[str]) -> None:
        self.volumes.prepare(self.places(patients))

    def describe(self) -> list[str]:
        cases = self.volumes.cases
        persons = [case.person or people.Patient(case.patient) for case in cases]
        left_out = f"{self.unlabelled} scans without a label map are left out"
        return [
            f"data: {len(self.patients)} patients, {len(cases)} scans, channels "
            f"{', '.join(self.channels)}; segmented: {', '.join(self.regions)}",
            *people.listing([case.scan for case in cases], persons),
            *([left_out] if self.unlabelled else []),
        ]

    def places(self, patients: Sequence[str]) -> list[int]:
        """Places of the cases of these patients, by id."""
        wanted = set(patients)
        own = [i for i, patient in enumerate(self.volumes.patients) if patient in wanted]
        return sorted(own, key=lambda i: self.volumes.cases[i].id)


class PatchFeed(Feed):
    """Random patches of the cases; one voxel thick for models of slices."""

    rows = slice(None)

    def __init__(self, data: VolumeData, config: "RunConfig", places: Sequence[int], seed: int):
        task = data.task
        self.flat = task.spatial_dims == 2
        self.steps = task.steps
        size: Any = config.batch_size
        self.batch_size: int = size
        self.sampler = PatchSampler(
            data.volumes, places, task.window, self.batch_size, task.foreground, seed
        )

    def of_rows(self, rows: slice) -> "PatchFeed":
        part = copy.copy(self)
        part.rows = rows
        return part

    def batches(self, epoch: int, first: int = 0) -> Iterator[Examples]:
        before = (epoch - 1) * self.steps
        steps = range(before + first, before + self.steps)
        return ordered(self._batch, steps, self.sampler.workers, self.sampler.prefetch)

    def _batch(self, step: int) -> Examples:
        """The patches of a step, counted from the first epoch's."""
        # The sampler's epochs take every case once; those here have as many steps as asked for.
        epoch, place = divmod(step, self.sampler.steps_per_epoch)
        images, targets = self.sampler.batch(epoch, place, self.rows)
        if self.flat:
            images, targets = images[..., 0, :], targets[..., 0, :]
        index = np.arange(self.batch_size, dtype=np.int32) + step * self.batch_size
        return Examples(images, targets, index[self.rows])


def open_volumes(
    task: "Volumes",
    cases: Sequence[Case],
    source: Source,
    modalities: Sequence[str] | None = None,
    regions: Sequence[str] | None = None,
    *,
    keep: bool = True,
) -> VolumeSet:
    """The arrays of cases; without modalities or regions the task's, or those of the first case.

    With ``keep=False`` prepared volumes are kept only where the source names a cache.
    """
    table = tuple(cases[0].table) if regions is None and task.regions is None else ()
    known = nifti.REGIONS if set(nifti.REGIONS) <= set(table) else table
    return VolumeSet(
        cases,
        modalities or task.modalities or cases[0].modalities,
        regions or task.regions or known,
        task.spacing,
        cache=source.cache if keep or source.cache else False,
    )


def save(path: Path, masks: np.ndarray, case: LoadedCase, *, overwrite: bool = False) -> None:
    """Writes the masks (x, y, z, k) of a case as a label map, in the values of its own labels."""
    labels = nifti.to_labels(masks, case.case.table, names=case.regions)
    nifti.save_prediction(path, labels, case, overwrite=overwrite)
