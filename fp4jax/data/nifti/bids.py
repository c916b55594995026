"""BIDS: a folder for each subject and session, files named by what they are of.

    sub-01/ses-02/anat/sub-01_ses-02_FLAIR.nii.gz
    sub-01/ses-02/anat/sub-01_ses-02_ce-gd_T1w.nii.gz                       t1c
    derivatives/manual/sub-01/ses-02/anat/sub-01_ses-02_label-lesion_mask.nii.gz

A case is a session of a subject, or a subject without sessions. Label maps (``_dseg``,
``_mask``, ``_seg``, ``_roi``, ``-lesion...``) lie beside the images or in derivatives.
"""

import collections
import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from fp4jax.data.folders import readable, walk
from fp4jax.data.nifti.case import Case, canonical
from fp4jax.data.nifti.labels import Table
from fp4jax.data.nifti.volume import is_nifti_name, stem
from fp4jax.data.problems import refuse

_ENTITIES = re.compile(
    r"(?P<entities>sub-[A-Za-z0-9]+(?:_[A-Za-z]+-[A-Za-z0-9.+]+)*)"
    r"_(?P<suffix>[A-Za-z0-9-]+(?:_[A-Za-z0-9-]+)*)"
)
_IMAGES = (
    "FLAIR",
    "T1w",
    "T2w",
    "T2starw",
    "PDw",
    "SWI",
    "UNIT1",
    "angio",
    "inplaneT2",
    "adc",
    "ADC",
)
_LABELS = re.compile(r"dseg|mask|seg|roi|lesion|label|segmentation|labels|tumou?r", re.IGNORECASE)
# Masks of something else than what is to be found.
_OTHER_MASKS = ("brain", "head", "gm", "wm", "csf", "defacing", "deface")
_REMEDY = (
    "Name the modalities that all sessions have (--modalities flair t1c), move what is not wanted "
    "elsewhere, or describe the files by paths below the root: --patterns flair "
    "'sub-{id}/anat/sub-{id}_FLAIR.nii.gz' --label 'derivatives/x/sub-{id}/anat/sub-{id}_dseg.nii' "
    "--labels lesion=1."
)

Key = tuple[str, ...]


def find(
    root: Path, modalities: Sequence[str] | None = None, table: Table | None = None
) -> tuple[Case, ...]:
    """All sessions below ``root`` that have images, by id; none if there are no subjects.

    Args:
        root: a data set, or a folder above it.
        modalities: those that every session must have; None means all that some have.
        table: what the label maps' values mean; None: masks are 0 and 1, and the others' values are
            looked up in ``dseg.tsv``.

    Raises:
        ValueError: sessions that lack an image or have several; label maps without a table.
    """
    images, labels, notes = _files(root)
    if not images:
        return ()
    # Where images were processed, the raw ones are still the data set.
    raw = {key: found for key, found in images.items() if not key[0]}
    images = raw or images
    names = [canonical(name) for name in modalities or _in_order(images.values())]
    problems, cases, unexplained = [], [], []
    first: dict[str, Key] = {}
    for key, found in sorted(images.items(), key=lambda item: item[0][1:]):
        _, place, case = key
        if case in first:
            case = f"{place}_{case}".replace("/", "_")
        first[case] = key
        for name in names:
            paths = found.get(name, [])
            if not paths:
                problems.append(f"{case}: modality {name} is missing")
            elif len(paths) > 1:
                shown = ", ".join(path.name for path in paths)
                problems.append(f"{case}: modality {name} is there {len(paths)} times, {shown}")
        masks = labels.get(key[1:], [])
        label = masks[0] if len(masks) == 1 else None
        if len(masks) > 1:
            shown = ", ".join(path.name for path in masks)
            problems.append(f"{case}: the label map is there {len(masks)} times, {shown}")
        own = table if label is None or table is not None else _table(label, notes)
        if label is not None and own is None:
            unexplained.append(label)
        one = tuple((name, found[name][0], None) for name in names if found.get(name))
        cases.append(Case(case, "bids", one, label, own, place=_place(place, case)))
    if unexplained and not problems:
        raise ValueError(
            f"The values of {len(unexplained)} label maps, such as {unexplained[0]}, are explained "
            "nowhere (dseg.tsv). Say what they mean with --labels: another layout's name, such as "
            "brats2023, or regions, such as lesion=1."
        )
    if problems:
        refuse(root, problems, _REMEDY)
    return tuple(sorted(cases, key=lambda case: case.id))


def _files(
    root: Path,
) -> tuple[dict[Key, dict[str, list[Path]]], dict[Key, list[Path]], list[Path]]:
    """Images and label maps by (derivative, folders above the subject, session), and tables."""
    images: dict[Key, dict[str, list[Path]]] = {}
    labels: dict[Key, list[Path]] = collections.defaultdict(list)
    tables = []
    for folder, folders, names in walk(root):
        folders[:] = [f for f in folders if f not in ("sourcedata", "code")]
        holders = [f for f in folders if is_nifti_name(f)]
        folders[:] = [f for f in folders if f not in holders]
        tables += [folder / name for name in names if name.endswith("dseg.tsv")]
        above = folder.relative_to(root).parts
        if not any(part.startswith("sub-") for part in (root.name, *above)):
            continue
        derivative = "derivatives" in above or "derivatives" in root.parts[-2:-1]
        site = tuple(_above(above))
        for name in (*names, *holders):
            match = _ENTITIES.fullmatch(stem(name))
            if match is None or not is_nifti_name(name):
                continue
            entities = dict(part.split("-", 1) for part in match["entities"].split("_"))
            session = "_".join(
                f"{entity}-{entities[entity]}" for entity in ("sub", "ses") if entity in entities
            )
            key = ("derivatives" if derivative else "", "/".join(site), readable(session))
            suffix = match["suffix"]
            if suffix in _IMAGES:
                modality = _modality(suffix, entities)
                found = images.setdefault(key, collections.defaultdict(list))
                found[modality].append(folder / name)
            elif _LABELS.search(suffix) and not _is_other(entities):
                labels[key[1:]].append(folder / name)
    return images, labels, tables


def _above(parts: Iterable[str]) -> list[str]:
    """The folders above the subject that are part of the data, no derivative's."""
    kept = []
    for part in parts:
        if part.startswith("sub-") or part == "derivatives":
            break
        kept.append(part)
    return kept


def _place(site: str, session: str) -> str:
    return "/".join(part for part in (site, *session.split("_")) if part)


def _modality(suffix: str, entities: dict[str, str]) -> str:
    name = canonical(suffix)
    return "t1c" if name == "t1" and "ce" in entities else name


def _is_other(entities: dict[str, str]) -> bool:
    named = {entities.get(name, "").lower() for name in ("desc", "label")}
    return bool(named & set(_OTHER_MASKS))


def _in_order(found: Iterable[dict[str, list[Path]]]) -> list[str]:
    every = {name for images in found for name in images}
    usual = [name for name in ("flair", "t1", "t1c", "t2") if name in every]
    return [*usual, *sorted(every - set(usual))]


def _table(label: Path, tables: Sequence[Path]) -> Table | None:
    """Regions of a label map: by the table beside it or above it; a mask has one, the lesion."""
    above = [path for path in tables if path.parent in label.parents]
    own = [path for path in above if path.name == f"{stem(label.name)}.tsv"]
    for path in (*own, *sorted(above, key=lambda p: -len(p.parts))):
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                rows = list(csv.DictReader(file, delimiter="\t"))
            found = {
                row["name"]: frozenset({int(row["index"])}) for row in rows if int(row["index"])
            }
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if found:
            return (
                found
                if len(found) == 1
                else {"foreground": frozenset().union(*found.values()), **found}
            )
    if re.search(r"mask|lesion|roi", label.name, re.IGNORECASE):
        return {"lesion": frozenset({1})}
    return None
