"""The report of a folder of runs: always of all that is there, whoever trained it and when."""

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fp4jax.analysis.report import html
from fp4jax.analysis.report.families import families
from fp4jax.analysis.report.html import Section, paragraph
from fp4jax.analysis.report.made import RESEARCH, command, day
from fp4jax.files import replacing
from fp4jax.study.record import StudyRecord, read_records
from fp4jax.train.folder import RunFolder
from fp4jax.train.slices import Slices

if TYPE_CHECKING:
    from fp4jax.analysis.results import RunResult

_PAGE = "report.html"
_PARTS = "reports"
PATIENTS = "patients"


@dataclasses.dataclass(frozen=True)
class Report:
    """What a report found.

    Attributes:
        paths: that were written; none if no run is finished.
        finished: number of finished runs.
        open: (run, how far it is) of the runs of the studies that are neither finished nor failed.
        failures: (run, error and traceback) of those that failed.
    """

    paths: tuple[Path, ...]
    finished: int
    open: tuple[tuple[str, str], ...]
    failures: tuple[tuple[str, str], ...]


def report_folder(
    folder: Path, *, pictures: bool = False, patients: bool = False, resamples: int = 2000
) -> Report:
    """Writes ``report.html``, ``tables/`` and ``figures/`` into a folder of runs.

    Described are all finished runs, and what has become of the others that the studies there have.
    Runs that cannot be compared (:func:`fp4jax.analysis.report.families.families`) have a page each
    in ``reports/``, and ``report.html`` lists these. What is the same gives the same bytes.

    Args:
        folder: with ``runs/`` and ``studies/``, as a study leaves it, or with the runs themselves.
        pictures: show images of patients of data that are not synthetic, which their licence may
            forbid to pass on.
        patients: also a page of predictions for each test patient, in ``patients/``; of data that
            are synthetic there are these pages in any case.
        resamples: of the patient bootstrap.

    Raises:
        ValueError: a folder without runs.
        OSError: a file that cannot be written.
    """
    from fp4jax.analysis.results import read_run

    root = folder / "runs" if (folder / "runs").is_dir() else folder
    records = read_records(folder)
    names = {
        path.parent.name
        for pattern in ("config", "failed")
        for path in root.glob(f"*/{pattern}.json")
    }
    names |= {name for record in records for name in record.runs}
    if not names:
        raise ValueError(f"{folder} holds no runs; name the folder that a study was written to.")
    found = {name: read_run(root / name) for name in sorted(names)}
    runs = [run for run in found.values() if run is not None]
    others = _others(root, [name for name, run in found.items() if run is None])
    if not runs:
        return Report((), 0, *others)
    pages = _Pages(folder, records, others, pictures, patients, resamples)
    groups = families(runs)
    paths = pages.one(runs) if len(groups) == 1 else pages.several(groups)
    return Report(tuple(paths), len(runs), *others)


def _others(
    root: Path, names: Sequence[str]
) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]:
    """Runs that are open, and those that failed."""
    open_, failures = [], []
    for name in names:
        folder = RunFolder(root / name)
        status = folder.status()
        if status.state == "failed":
            failure = folder.failure() or {}
            failures.append((name, f"{failure.get('error')}\n\n{failure.get('traceback', '')}"))
        else:
            open_.append((name, str(status)))
    return tuple(open_), tuple(failures)


@dataclasses.dataclass(frozen=True)
class _Pages:
    """Writes the pages of a folder."""

    folder: Path
    records: Sequence[StudyRecord]
    others: tuple[Sequence[tuple[str, str]], Sequence[tuple[str, str]]]
    pictures: bool
    patients: bool
    resamples: int

    def one(self, runs: "Sequence[RunResult]") -> list[Path]:
        """The page of runs that can all be compared."""
        shutil.rmtree(self.folder / _PARTS, ignore_errors=True)
        return self._page(self.folder, runs, self.records, *self.others)

    def several(self, groups: "Mapping[str, Sequence[RunResult]]") -> list[Path]:
        """A page for each family, and one that lists them."""
        from fp4jax.analysis.report.patient_pages import remove_patients

        for path in (self.folder / _PARTS).glob("*"):
            if path.name not in groups:
                shutil.rmtree(path, ignore_errors=True)
        for name, pattern in (("tables", "*.csv"), ("figures", "*.png")):
            for path in (self.folder / name).glob(pattern):
                path.unlink()
        remove_patients(self.folder / PATIENTS)
        written = []
        for name, runs in groups.items():
            own = {run.path.name for run in runs}
            records = [record for record in self.records if own & {*record.runs}]
            ids = {run for record in records for run in record.runs}
            others = [[(run, text) for run, text in part if run in ids] for part in self.others]
            written += self._page(self.folder / _PARTS / name, runs, records, *others)[:1]
        from fp4jax.analysis.report.write import left

        page = self.folder / _PAGE
        open_, failures = self.others
        sections = [
            Section("Reports", _contents(groups)),
            *left(open_, failures),
        ]
        title = f"{len(groups)} groups of runs that cannot be compared with each other"
        lead = paragraph(f"They differ in data or settings. {RESEARCH}")
        with replacing(page) as temporary:
            temporary.write_text(html.page(title, sections, lead), encoding="utf-8")
        return [page, *written]

    def _page(
        self,
        folder: Path,
        runs: "Sequence[RunResult]",
        records: Sequence[StudyRecord],
        open_: Sequence[tuple[str, str]],
        failures: Sequence[tuple[str, str]],
    ) -> list[Path]:
        from fp4jax.analysis.report.patient_pages import remove_patients, write_patients
        from fp4jax.analysis.report.write import write_report

        synthetic = all(_is_synthetic(run, records) for run in runs)
        pages = folder / PATIENTS
        index = None
        if synthetic or self.patients:
            index = write_patients(pages, runs, title=_title(runs), synthetic=synthetic)
        if index is None:
            remove_patients(pages)
        write_report(
            folder / _PAGE,
            title=_title(runs),
            runs=runs,
            configuration={name: _configuration(r) for name, r in _named(records).items()},
            data={name: record.data for name, record in _named(records).items()},
            expectations=_checks(records, runs),
            open_=open_,
            failures=failures,
            pictures=self.pictures or synthetic,
            patients=None if index is None else index.relative_to(folder).as_posix(),
            resamples=self.resamples,
        )
        written = [folder / _PAGE, folder / "tables", folder / "figures"]
        return written if index is None else [*written, index]


def _named(records: Sequence[StudyRecord]) -> dict[str, StudyRecord]:
    """Each by a name of its own."""
    found: dict[str, StudyRecord] = {}
    for record in records:
        name = f"{record.name}, first executed {day(record.date)}" if record.date else record.name
        count = sum(other.startswith(name) for other in found)
        found[f"{name} ({count + 1})" if count else name] = record
    return found


def _configuration(record: StudyRecord) -> dict[str, Any]:
    known = {"command": command(record.command)} if record.command else {}
    return {**known, **record.study}


def _checks(
    records: Sequence[StudyRecord], runs: "Sequence[RunResult]"
) -> list[tuple[str, str, str]]:
    """What the studies expected of their runs, and got."""
    from fp4jax.analysis.results import table

    checks = []
    for record in records:
        own = [run for run in runs if run.path.name in record.runs]
        if own and record.expected:
            rows = table(own)
            checks += [check for one in record.expected if (check := one.check(rows))]
    return list(dict.fromkeys(checks))


def _title(runs: "Sequence[RunResult]") -> str:
    archs = dict.fromkeys(run.config.arch for run in runs)
    recipes = {run.config.recipe_name for run in runs}
    count = f"{len(recipes)} recipe{'s' * (len(recipes) != 1)}"
    return f"{runs[0].config.data.name}: {' and '.join(archs)} under {count}"


def _is_synthetic(run: "RunResult", records: Sequence[StudyRecord]) -> bool:
    """Whether pictures of the patients may be shown to anyone."""
    if isinstance(run.config.data, Slices):
        return run.config.data.cohort == "phantom"
    return any(record.data.get("synthetic") and run.path.name in record.runs for record in records)


def _contents(groups: "Mapping[str, Sequence[RunResult]]") -> str:
    rows = []
    for name, runs in groups.items():
        target = html.link(f"{_PARTS}/{name}/{_PAGE}", f"{name}: {_title(runs)}")
        rows.append(f"<li>{target}, {len(runs)} runs</li>")
    return f"<ul>{''.join(rows)}</ul>"
