"""Case: the files of one examination, whatever the layout of the folder they are in."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from fp4jax.data import patients
from fp4jax.data.nifti.labels import Table, table_of

# One name for each contrast, so that a network can be used on another year's files.
_ALIASES = {
    "t1n": "t1",
    "t1w": "t1",
    "t1ce": "t1c",
    "t1gd": "t1c",
    "t2w": "t2",
    "t2f": "flair",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """The files of one examination of one patient.

    Attributes:
        id: the case's name.
        layout: the layout that it was found in, which says what its labels mean.
        images: (modality, file, index) each; index is the channel of a 4-D file, else None.
        label: the file of the label map, None where there is none.
        labels: region -> label values; None means ``LABELS[layout]``.
        mask: the file of a brain mask, if the set has one.
        place: where it lies below the root, with ``/`` between folders.
        person: the patient and the rule that said so (:mod:`fp4jax.data.patients`), for which all
            cases of a set are needed; None: what the name alone says.
    """

    id: str
    layout: str
    images: tuple[tuple[str, Path, int | None], ...]
    label: Path | None
    labels: Mapping[str, Collection[int]] | None = dataclasses.field(default=None, hash=False)
    mask: Path | None = None
    place: str = dataclasses.field(default="", compare=False)
    person: patients.Patient | None = dataclasses.field(default=None, compare=False)

    @property
    def patient(self) -> str:
        """The patient's id: splits keep the cases of one together.

        Example:
            >>> Case("BraTS-GLI-00012-001", "brats2023", (), None).patient
            'BraTS-GLI-00012'
        """
        return patients.alone(self.id) if self.person is None else self.person.id

    @property
    def scan(self) -> patients.Scan:
        """Its names, by which it is grouped with others of its patient."""
        return patients.Scan(self.id, self.place)

    @property
    def table(self) -> Table:
        """Region -> label values of this case.

        Raises:
            ValueError: a layout without a table.
        """
        return table_of(self.layout if self.labels is None else self.labels)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The names of the images, in order."""
        return tuple(name for name, _, _ in self.images)

    def image(self, modality: str) -> tuple[Path, int | None]:
        """The file of a modality and the channel in it.

        Raises:
            ValueError: the case has no such image.
        """
        wanted = canonical(modality)
        for name, path, index in self.images:
            if name == wanted:
                return path, index
        raise ValueError(
            f"Case {self.id} has no modality {modality!r}; it has {', '.join(self.modalities)}."
        )


def canonical(modality: str) -> str:
    """The name of a modality here: flair, t1, t1c or t2 for what BraTS and MSD call otherwise.

    Example:
        >>> [canonical(name) for name in ("FLAIR", "t1ce", "t1gd", "t2w", "adc")]
        ['flair', 't1c', 't1c', 't2', 'adc']
    """
    name = modality.strip().lower()
    return _ALIASES.get(name, name)


def canonical_all(modalities: Sequence[str]) -> tuple[str, ...]:
    """The names of several modalities.

    Raises:
        ValueError: none, one twice, or a string in place of a sequence.
    """
    names = () if isinstance(modalities, str) else tuple(canonical(name) for name in modalities)
    if not names or len(set(names)) != len(names):
        raise ValueError(
            f"modalities are {modalities!r}; name each once, such as ('flair', 't1', 't1c', 't2')."
        )
    return names
