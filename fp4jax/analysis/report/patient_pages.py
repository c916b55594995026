"""A page for each test patient: what every label found, beside the truth, and all Dice scores."""

import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fp4jax.analysis.figures.predictions import one_seed
from fp4jax.analysis.figures.style import (
    ordered_archs,
    ordered_labels,
    ordered_scales,
    shown,
    title,
)
from fp4jax.analysis.report import html
from fp4jax.analysis.report.headline import size
from fp4jax.analysis.report.html import Cell, Section, number, paragraph
from fp4jax.analysis.report.made import RESEARCH
from fp4jax.analysis.report.patient_panels import input_panel, result_panels, truth_panel
from fp4jax.files import replacing

if TYPE_CHECKING:
    from fp4jax.analysis.results import RunResult
    from fp4jax.train.patients import Examples

_INDEX = "index.html"
_PRIVATE = (
    "These pages show images of patients. Keep them where the data may lie, and pass them on only "
    "if the data's licence and the patients' consent allow it."
)
_SYNTHETIC = "These patients are synthetic."
_KEY = (
    "The axial slice with the largest lesion: hits green, false alarms orange, misses magenta, at "
    "each run's threshold; below it the probability, black 0 to white 1. Dice is of the whole "
    "volume."
)


def write_patients(
    folder: Path, runs: "Sequence[RunResult]", *, title: str, synthetic: bool
) -> Path | None:
    """Writes ``index.html``, a table of the test patients, and a page for each of them.

    A page shows each label's prediction of one split and seed, the one that most labels have, and
    the Dice of all runs. Pages of an earlier call that are not written again are deleted.

    Args:
        folder: for the pages; it is made.
        runs: finished ones.
        title: of the report.
        synthetic: the patients are not real; of real ones every page says how to treat it.

    Returns:
        The table's page; None if no run kept slices to show.
    """
    runs = [run for run in runs if (run.path / "examples.npz").exists()]
    tested: dict[str, list[RunResult]] = {}
    for run in runs:
        for patient in run.summary["test_patients"]:
            tested.setdefault(patient, []).append(run)
    if not tested:
        return None
    names = {patient: _file(patient) for patient in sorted(tested)}
    folder.mkdir(parents=True, exist_ok=True)
    note = _SYNTHETIC if synthetic else _PRIVATE
    kept = _Kept()
    for patient in sorted(tested, key=lambda patient: _parts(tested[patient])):
        page = _page(patient, tested[patient], kept, names, note)
        _write(folder / names[patient], page)
    lead = html.links([("../report.html", "Report")]) + paragraph(f"{note} {RESEARCH}")
    table = Section("Test patients", paragraph(_INDEX_NOTE) + _table(tested, names))
    _write(folder / _INDEX, html.page(f"Patients of {title}", [table], lead))
    for old in _pages(folder):
        if old.name not in names.values():
            old.unlink()
    return folder / _INDEX


def remove_patients(folder: Path) -> None:
    """Deletes the pages that :func:`write_patients` wrote, and the folder if it is empty then."""
    pages = _pages(folder)
    for path in [*pages, folder / _INDEX] if pages else ():
        path.unlink(missing_ok=True)
    if pages and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


_INDEX_NOTE = "Volumetric Dice, means over the runs that tested the patient."


class _Kept:
    """Examples of the runs of one page, and of the next if it has the same ones."""

    def __init__(self):
        self._known: dict[Path, Examples] = {}

    def of(self, runs: "Sequence[RunResult]") -> "dict[Path, Examples]":
        self._known = {run.path: self._known.get(run.path) or run.examples() for run in runs}
        return self._known


def _parts(runs: "Sequence[RunResult]") -> tuple:
    """Patients of the same runs come one after the other, so that these are read once."""
    return tuple(sorted(run.path.name for run in runs))


def _file(patient: str) -> str:
    """Name of a patient's page; two patients never share one."""
    slug = re.sub(r"[^A-Za-z0-9.-]+", "_", patient)[:60]
    return f"patient_{slug}_{hashlib.sha256(patient.encode()).hexdigest()[:6]}.html"


def _pages(folder: Path) -> list[Path]:
    return sorted(folder.glob("patient_*_" + "[0-9a-f]" * 6 + ".html"))


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _page(
    patient: str, runs: "Sequence[RunResult]", kept: _Kept, names: Mapping[str, str], note: str
) -> str:
    order = list(names)
    place = order.index(patient)
    near = [("../report.html", "Report"), (_INDEX, "All patients")]
    near += [
        (names[order[i]], text)
        for i, text in ((place - 1, "Previous"), (place + 1, "Next"))
        if 0 <= i < len(order)
    ]
    sections = [
        Section("Predictions", paragraph(_KEY) + "".join(_predictions(patient, runs, kept))),
        Section("Dice of all runs", _dice(patient, runs)),
    ]
    return html.page(patient, sections, html.links(near) + paragraph(f"{note} {RESEARCH}"))


def _predictions(patient: str, runs: "Sequence[RunResult]", kept: _Kept) -> Iterator[str]:
    """Input and truth, then the labels of each architecture and scale."""
    chosen = one_seed(runs)
    examples = kept.of(chosen)
    seen = {
        run.path: int(np.flatnonzero(examples[run.path].patients == patient)[0])
        for run in chosen
        if (examples[run.path].patients == patient).any()
    }
    chosen = [run for run in chosen if run.path in seen]
    if not chosen:
        return
    first = examples[chosen[0].path], seen[chosen[0].path]
    yield html.panels([input_panel(*first), truth_panel(*first)])
    for arch in ordered_archs(run.config.arch for run in chosen):
        for scale in ordered_scales(run.config.scale for run in chosen if run.config.arch == arch):
            own = {
                run.label: run
                for run in chosen
                if (run.config.arch, run.config.scale) == (arch, scale)
            }
            config = next(iter(own.values())).config
            yield f"<h3>{title(arch, scale)}, {config.split}, seed {config.seed}</h3>\n"
            yield html.panels(
                result_panels(
                    examples[own[label].path],
                    seen[own[label].path],
                    own[label].summary["threshold"],
                    shown(label),
                    own[label].summary["test_patients"][patient],
                )
                for label in ordered_labels(own)
            )


def _dice(patient: str, runs: "Sequence[RunResult]") -> str:
    kinds = _kinds(runs)
    order = sorted(runs, key=lambda r: (kinds.index(_kind(r)), r.config.split, r.config.seed))
    rows = [
        [
            *(Cell(title(run.config.arch)), size(run.config.scale), Cell(shown(run.label))),
            *(Cell(run.config.split), number(run.config.seed)),
            *(number(run.summary["test_patients"][patient]), Cell(run.path.name)),
        ]
        for run in order
    ]
    return html.table(["architecture", "scale", "label", "split", "seed", "Dice", "folder"], rows)


def _table(tested: "Mapping[str, Sequence[RunResult]]", names: Mapping[str, str]) -> str:
    """A row for each patient, a column for each architecture, scale and label."""
    kinds = _kinds([run for own in tested.values() for run in own])
    rows = []
    for patient, name in names.items():
        row = [Cell(patient, target=name), number(len(tested[patient]))]
        for kind in kinds:
            found = [
                value
                for run in tested[patient]
                if _kind(run) == kind
                and (value := run.summary["test_patients"][patient]) is not None
            ]
            row.append(number(float(np.mean(found)) if found else None))
        rows.append(row)
    heads = [f"{title(arch, scale)} {shown(label)}" for arch, scale, label in kinds]
    return html.table(["patient", "runs", *heads], rows)


def _kinds(runs: "Sequence[RunResult]") -> list[tuple[str, str, str]]:
    """Architectures, scales and labels that there are, in the report's order."""
    known = {_kind(run) for run in runs}
    archs, scales, labels = (set(names) for names in zip(*known, strict=True))
    return [
        kind
        for kind in itertools.product(
            ordered_archs(archs), ordered_scales(scales), ordered_labels(labels)
        )
        if kind in known
    ]


def _kind(run: "RunResult") -> tuple[str, str, str]:
    return run.config.arch, run.config.scale, run.label
