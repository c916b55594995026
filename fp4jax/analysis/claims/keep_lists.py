"""Keep lists that ``fp4jax keep-lists`` left in a study's folder, compared patient by patient."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from fp4jax.analysis.claims.tables import PRIMARY
from fp4jax.analysis.csv_tables import read_csv, write_csv
from fp4jax.analysis.stats import compare_patients
from fp4jax.extras import Extra
from fp4jax.files import replacing

with Extra("study"):
    import pandas as pd

_STEM = "keep_lists_"
_SCORES, _CONTRASTS, _LAYERS = "_patients", "_contrasts", "_layers"
#: Columns of the scores, before metrics.
SCORE_COLUMNS = ["arch", "scale", "label", "split", "seed", "patient", *PRIMARY]
#: Columns of text of the scores and the contrasts.
TEXT = ["arch", "scale", "label", "split", "patient", "metric", "a", "b", "unit", "verdict"]


def write_lists(
    lists: pd.DataFrame, layers: pd.DataFrame, scores: pd.DataFrame, recipe: str, out: Path
) -> list[Path]:
    """Writes ``keep_lists_RECIPE.csv``, and beside it ``_layers``, ``_patients``, ``_contrasts``.

    Args:
        lists: a row per model, method and list.
        layers: a row per model, split and layer: ``multiply_adds``, what it costs to quantize it,
            ``proposed`` (whether that split's list has it).
        scores: a row per run and test patient, with :data:`SCORE_COLUMNS`; labels are lists.
        recipe: that was compared.
        out: folder.
    """
    stem = _STEM + recipe.replace("+", "-")
    paths = [write_csv(lists, out / f"{stem}.csv"), write_csv(layers, out / f"{stem}{_LAYERS}.csv")]
    kept: Any = scores[SCORE_COLUMNS]
    paths.append(write_csv(kept, out / f"{stem}{_SCORES}.csv"))
    # Of the scores as they are read back, so that the file alone gives the same bytes.
    return [*paths, _compared(paths[-1])]


def find_lists(folders: Sequence[Path]) -> dict[str, Path]:
    """Files of keep lists by name; of folders that have the same the last one's.

    Raises:
        ValueError: scores among them are no such table.
    """
    found = {path.name: path for folder in folders for path in _files(folder)}
    for path in found.values():
        if path.stem.endswith(_SCORES):
            _scores(path)
    return found


def copy_lists(found: Mapping[str, Path], out: Path) -> list[Path]:
    """Copies what was found into a folder, in which others are removed.

    Returns:
        What was written.
    """
    for path in _files(out):
        if path.name not in found:
            path.unlink()
    for name, path in found.items():
        if path.resolve() != (out / name).resolve():
            with replacing(out / name) as temporary:
                shutil.copyfile(path, temporary)
    return [out / name for name in found]


def compare_lists(folder: Path) -> list[Path]:
    """Writes the contrasts of all lists in a folder anew, from their patients' scores."""
    return [_compared(path) for path in sorted(folder.glob(f"{_STEM}*{_SCORES}.csv"))]


def list_files(folder: Path, kind: Literal["", "_layers", "_contrasts"] = "") -> list[Path]:
    """Files of lists, or of layers or contrasts of lists, in a folder."""
    kinds = (_SCORES, _CONTRASTS, _LAYERS)
    every = _files(folder)
    if kind:
        return [path for path in every if path.stem.endswith(kind)]
    return [path for path in every if not path.stem.endswith(kinds)]


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{_STEM}*.csv"))


def _scores(path: Path) -> pd.DataFrame:
    return read_csv(path, TEXT, SCORE_COLUMNS, PRIMARY)


def _compared(path: Path) -> Path:
    """All lists with each other; one that is called by two names is there twice."""
    scores = _scores(path)
    found = [compare_patients(scores, m, "all").assign(metric=m) for m in PRIMARY]
    rows = pd.concat(found, ignore_index=True)
    rows = rows[["metric", *(name for name in rows.columns if name != "metric")]]
    return write_csv(rows, path.with_name(path.name.replace(_SCORES, _CONTRASTS)))
