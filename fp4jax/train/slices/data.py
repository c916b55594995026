"""SliceData: a cohort as the trainer takes it."""

import functools
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from fp4jax.data import Cohort, Split, fingerprint, patient_holdout, patient_kfold, patients
from fp4jax.train.slices import scoring
from fp4jax.train.task import Data, Examples, Feed

if TYPE_CHECKING:
    from fp4jax.train.config import RunConfig
    from fp4jax.train.model import Model


class SliceData(Data):
    """A cohort; on an accelerator with room for it, the whole of it stays there."""

    regions = ("lesion",)
    divides = True

    def __init__(self, cohort: Cohort):
        self.cohort = cohort
        self.channels, self.patients = cohort.channels, cohort.patients
        self._splits: dict[tuple[int, int | None], Sequence[Split]] = {}

    @functools.cached_property
    def fingerprint(self) -> dict[str, Any]:
        """Of the cohort; read once."""
        return fingerprint(self.cohort)

    @property
    def digest(self) -> str:
        return self.fingerprint["sha256"]

    @functools.cached_property
    def contents(self) -> dict[str, str]:
        """A patient's slices, whatever its name and their numbers are, and each image.

        Images of one grey level are in many patients, and do not count.
        """
        images: dict[str, set[str]] = {patient: set() for patient in self.patients}
        for patient, image in zip(
            self.cohort.patient_ids.tolist(), self.cohort.images, strict=True
        ):
            pixels = np.ascontiguousarray(image)
            if pixels.min() != pixels.max():
                images[patient].add(hashlib.blake2b(pixels.tobytes(), digest_size=5).hexdigest())
        wholes = {
            patient: hashlib.sha256(" ".join(sorted(crcs.values())).encode()).hexdigest()[:16]
            for patient, crcs in self.fingerprint["crc32"].items()
        }
        return {p: " ".join([whole, *sorted(images[p])]) for p, whole in wholes.items()}

    def split(self, config: "RunConfig") -> Split:
        key = (config.split_seed, None if config.fold is None else config.folds)
        if key not in self._splits:  # a study asks for each of its runs
            self._splits[key] = self._divided(*key)
        parts = self._splits[key]
        return parts[0] if config.fold is None else config.of_folds(parts)

    def _divided(self, seed: int, folds: int | None) -> Sequence[Split]:
        """The holdout split alone, or those of a cross-validation."""
        if folds is None:
            return [patient_holdout(self.cohort, seed=seed)]
        return patient_kfold(self.cohort, folds=folds, seed=seed)

    def feed(self, config: "RunConfig", patients: Sequence[str], seed: int) -> "SliceFeed":
        places = np.flatnonzero(np.isin(self.cohort.patient_ids, patients)).astype(np.int32)
        size: Any = config.batch_size
        return SliceFeed(self.cohort, places, size, seed)

    def resident(self, room: float) -> tuple[Any, Any] | None:
        if self.cohort.nbytes > room:
            return None
        return jnp.asarray(self.cohort.images), jnp.asarray(self.cohort.masks)

    def validate(self, model: "Model", patients: Sequence[str]) -> dict[str, float]:
        return scoring.validate(model, self._own(patients)) if patients else {}

    def evaluate(self, model: "Model", split: Split, folder: Path) -> dict[str, Any]:
        parts = {name: self._own(getattr(split, name)) for name in ("val", "test")}
        return scoring.evaluate(model, parts, folder)

    def score(
        self, model: "Model", patients: Sequence[str], threshold: float, folder: Path | None = None
    ) -> dict[str, float]:
        return scoring.score(model, self._own(patients), threshold)

    def describe(self) -> list[str]:
        one = self.cohort
        own = [(patient, scan) for patient, ids in one.scans.items() for scan in ids]
        share = float(one.positive.mean()) if len(one) else 0.0
        several = patients.listing(
            [patients.Scan(scan) for _, scan in own],
            [patients.Patient(patient) for patient, _ in own],
        )
        return [
            f"data: {one.name}, {len(self.patients)} patients, {len(own)} scans, {len(one)} slices "
            f"({share:.0%} with lesion), channels {', '.join(self.channels)}",
            f"images: {one.nbytes / max(len(one), 1) / 1e6:.3f} MB a slice with its mask",
            *(several if len(own) > len(self.patients) else []),
        ]

    def _own(self, patients: Sequence[str]) -> Cohort:
        """The slices of these patients by patient and number: scores do not depend on their order.

        Sums of floats are taken in the order of the slices.
        """
        return self.cohort.select(patients).ordered()


class SliceFeed(Feed):
    """Slices in an order that is drawn anew for each epoch; ``rows`` of each batch."""

    def __init__(
        self,
        cohort: Cohort,
        places: np.ndarray,
        batch_size: int,
        seed: int,
        rows: slice = slice(None),
    ):
        self.cohort, self.places = cohort, places
        self.batch_size, self.seed, self.rows = batch_size, seed, rows
        self.steps = steps_per_epoch(len(places), batch_size)

    def of_rows(self, rows: slice) -> "SliceFeed":
        return SliceFeed(self.cohort, self.places, self.batch_size, self.seed, rows)

    def order(self, epoch: int) -> np.ndarray:
        order = epoch_order(self.places, self.seed, epoch, self.batch_size)
        return order[:, self.rows]

    def batches(self, epoch: int, first: int = 0) -> Iterator[Examples]:
        for index in self.order(epoch)[first:]:
            yield Examples(self.cohort.images[index], self.cohort.masks[index], index)


def steps_per_epoch(slices: int, batch_size: int) -> int:
    """The last batch is filled up with images from the start of the epoch's order."""
    return -(-slices // batch_size)


def epoch_order(slices: np.ndarray, seed: int, epoch: int, batch_size: int) -> np.ndarray:
    """(steps, batch) places in the cohort, shuffled by seed and epoch."""
    order = np.random.default_rng([seed, epoch]).permutation(slices)
    steps = steps_per_epoch(len(slices), batch_size)
    return np.resize(order, (steps, batch_size))
