"""One study of several folders: runs of two machines, or new ones and those collected before."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fp4jax.analysis.claims.collected import METRICS, RUN_COLUMNS, SETTINGS, Collected, ordered
from fp4jax.analysis.claims.markdown import each, loose
from fp4jax.analysis.csv_tables import header_of
from fp4jax.analysis.results import KEYS
from fp4jax.extras import Extra

with Extra("study"):
    import pandas as pd

# What must agree where two folders have the same run: all scores. CSV files keep six digits.
_SCORES = ("threshold", "best_epoch", "val_auprc", "test_auprc")
_DIGITS = 1e-5


def collect(folders: Sequence[Path]) -> Collected:
    """Collects from folders of runs, and from folders that have what was collected before.

    Raises:
        ValueError: see :class:`fp4jax.analysis.claims.Collected` and :func:`joined`.
    """
    return joined({str(folder): _of(folder) for folder in folders})


def _of(folder: Path) -> Collected:
    collected = header_of(folder / "runs.csv") == RUN_COLUMNS
    return Collected.read(folder) if collected else Collected.of_folder(folder)


def joined(studies: Mapping[str, Collected]) -> Collected:
    """One study of several; a run that two of them have counts once.

    Of a run that was diagnosed in several the last one's diagnosis is taken, since that may be of
    further recipes.

    Args:
        studies: by what errors call them.

    Raises:
        ValueError: they differ in data or in one of :data:`SETTINGS` (of others nothing was
            collected: they are the caller's to know), or in the scores of a run.
    """
    if len(studies) == 1:
        return next(iter(studies.values()))
    settings = _all(studies, "runs")
    for name in [*SETTINGS, "data"]:
        values = {value for value in settings[name] if value == value}
        if len(values) > 1:
            of = "; ".join(f"{folder}: {each(own.runs[name])}" for folder, own in studies.items())
            raise ValueError(
                f"{name} differs ({of}): such runs cannot be compared; name folders of one study."
            )
    runs = _once(_all(studies, "runs"), KEYS, _SCORES)
    patients = _once(_all(studies, "patients"), (*KEYS, "patient"), METRICS)
    inside = _all(studies, "inside")
    if len(inside):
        newest = inside.groupby(list(KEYS))["from"].transform("last")
        inside = inside[inside["from"] == newest]
    parts = (runs, KEYS), (patients, (*KEYS, "patient")), (inside, KEYS)
    return Collected(*(ordered(part.drop(columns="from"), *keys) for part, keys in parts))


def _all(studies: Mapping[str, Collected], table: str) -> Any:
    """A table of all, with the folder that a row is from."""
    own = [getattr(study, table).assign(**{"from": name}) for name, study in studies.items()]
    # Empty ones say nothing of the columns' types.
    return pd.concat([one for one in own if len(one)] or own[:1], ignore_index=True)


def _once(rows: Any, keys: Sequence[str], numbers: Sequence[str]) -> Any:
    """Rows without those that repeat an earlier one."""
    again = loose(rows.duplicated(list(keys)))
    first = rows[~again].set_index(list(keys))
    for _, row in rows[again].iterrows():
        other = first.loc[tuple(row[key] for key in keys)]
        for name in numbers:
            pair = other[name], row[name]
            if not np.isclose(*map(float, pair), rtol=_DIGITS, atol=0, equal_nan=True):
                what = " ".join(str(row[key]) for key in keys)
                raise ValueError(
                    f"{name} of {what} is {pair[0]:.6g} in {other['from']} and {pair[1]:.6g} in "
                    f"{row['from']}; name only one of the two, or remove that run from one."
                )
    return rows[~again]
