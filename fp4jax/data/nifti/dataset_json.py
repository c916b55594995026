"""``dataset.json``: the Decathlon's and nnU-Net's list of channels, labels and files."""

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from fp4jax.data.folders import entries, readable
from fp4jax.data.nifti.case import canonical
from fp4jax.data.nifti.labels import LABELS, Table
from fp4jax.data.nifti.volume import stem

REMEDY = "Unpack the archive again, or correct dataset.json."
_KEYS = ("modality", "channel_names", "training")
_REGIONS = {
    "whole_tumour": ("whole tumor", "whole tumour", "wt"),
    "tumour_core": ("tumor core", "tumour core", "tc"),
    "enhancing": ("enhancing tumor", "enhancing tumour", "enhancing", "et"),
}


def read(root: Path) -> tuple[Path, dict[str, Any]] | None:
    """The ``dataset.json`` in a folder or in the one folder below it that has one, and its content.

    None if there is none that lists channels or cases: other programs have files of this name.

    Raises:
        ValueError: several below the root; no JSON.
    """
    found = [root / "dataset.json"] if (root / "dataset.json").is_file() else []
    found = found or [
        folder / "dataset.json"
        for folder in entries(root)
        if folder.is_dir() and (folder / "dataset.json").is_file()
    ]
    if len(found) > 1:
        raise ValueError(
            f"{root} has several data sets: {', '.join(path.parent.name for path in found)}. Give "
            "the folder of one of them."
        )
    if not found:
        return None
    (file,) = found
    try:
        record = json.loads(file.read_bytes())  # UTF-8, -16 or -32, with or without a mark
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{file} cannot be read as JSON ({error}). Correct it there (often a comma too many or "
            "too few), or unpack the archive again."
        ) from error
    known = isinstance(record, dict) and any(key in record for key in _KEYS)
    return (file, record) if known else None


def channels(record: Mapping[str, Any]) -> dict[int, str]:
    """Channel -> the name of its modality.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: there is no such list.
    """
    names = record["channel_names"] if "channel_names" in record else record["modality"]
    if isinstance(names, list):
        names = dict(enumerate(names))
    found = {int(index): canonical(str(name)) for index, name in names.items()}
    return _once(dict(sorted(found.items())))


def table(record: Mapping[str, Any]) -> Table:
    """Regions by the names of the labels: the brain tumour's, or one region for each label.

    Names -> values, values -> names, and names -> several values (nnU-Net's regions) are read.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: no such list.
    """
    labels = record["labels"]
    by_name: dict[str, frozenset[int]] = {}
    for key, value in labels.items():
        name, values = (value, [key]) if _is_number(key) else (key, value)
        members = values if isinstance(values, list) else [values]
        numbers = frozenset(int(member) for member in members) - {0}
        if numbers and str(name).strip().lower() not in ("background", "ignore"):
            by_name[str(name)] = by_name.get(str(name), frozenset()) | numbers
    if any(len(values) > 1 for values in by_name.values()):
        return {_region(name): values for name, values in by_name.items()}
    return _of_labels({min(values): name for name, values in by_name.items()})


def _of_labels(names: Mapping[int, str]) -> Table:
    names = {value: name.lower() for value, name in names.items()}
    plain = {value: name.replace("_", " ").replace("-", " ") for value, name in names.items()}
    oedema = frozenset(v for v, name in plain.items() if "edema" in name)  # oedema as well
    other = frozenset(
        v for v, name in plain.items() if "non enhanc" in name or "necro" in name or name == "ncr"
    )
    enhancing = frozenset(v for v, name in plain.items() if "enhanc" in name) - other
    if oedema and other and enhancing and oedema | other | enhancing == frozenset(names):
        return {
            "whole_tumour": frozenset(names),
            "tumour_core": other | enhancing,
            "enhancing": enhancing,
        }
    if not names:
        return LABELS["msd"]
    single: dict[str, Any] = {name: frozenset({value}) for value, name in names.items()}
    return {"foreground": frozenset(names)} | single


def resolve(folder: Path, name: str) -> Path:
    """The file that ``dataset.json`` in a folder means: also where it lay elsewhere before, or has
    its name in another case or Unicode form; as it is named, if there is none."""
    given = PurePosixPath(name.replace("\\", "/"))
    for path in (folder / given, folder.joinpath(*given.parts[-2:])):
        if path.exists():
            return path
        if path.parent.is_dir():
            alike = [
                other
                for other in entries(path.parent)
                if readable(stem(other.name)).lower() == readable(stem(path.name)).lower()
            ]
            if len(alike) == 1:
                return alike[0]
    return folder / given


def id_of(name: str) -> str:
    """The case of a file: its name without folder and ending."""
    return readable(stem(PurePosixPath(name.replace("\\", "/")).name))


def _is_number(text: Any) -> bool:
    return str(text).strip().lstrip("-").isdecimal()


def _region(name: str) -> str:
    plain = name.lower().replace("_", " ").replace("-", " ").strip()
    known = (region for region, names in _REGIONS.items() if plain in names)
    return next(known, name.lower())


def _once(names: dict[int, str]) -> dict[int, str]:
    """Names that come twice, as CT and CT do, with their number."""
    every = list(names.values())
    return {
        index: name if every.count(name) == 1 else f"{name}{index}" for index, name in names.items()
    }
