"""The report of an executed study, with the tables and figures beside it."""

from collections.abc import Sequence
from pathlib import Path

from fp4jax.data import Cohort, fingerprint, phantom
from fp4jax.study.execution import Outcome, configuration
from fp4jax.study.expectations import Expectation
from fp4jax.study.plan import Study

# Sets whose licences allow pictures of patients to be passed on.
_FREE = ("phantom",)


def report(
    study: Study,
    cohort: Cohort,
    out: Path,
    outcome: Outcome,
    expected: Sequence[Expectation] = (),
) -> list[Path]:
    """Writes ``report.html``, ``tables/`` and ``figures/`` into ``out``; returns their paths.

    Pictures of patients are left out unless the cohort is synthetic, so that a report can be
    passed on; every run's folder has them. A report to which nothing was added is left alone.
    """
    path = out / "report.html"
    written = [path, out / "tables", out / "figures"]
    if not outcome.folders:
        return []
    if not outcome.changed and all(map(Path.exists, written)):
        return written
    from fp4jax.analysis.report import write_report
    from fp4jax.analysis.results import read_run, table

    runs = [run for run in (read_run(folder.path) for folder in outcome.folders) if run]
    rows = table(runs)
    checks = [check for check in (e.check(rows) for e in expected) if check]
    if cohort.name == "phantom":
        (out / "figures").mkdir(exist_ok=True)
        phantom.picture(cohort, out / "figures" / "cohort.png")
    write_report(
        path,
        title=f"{cohort.name}: {' and '.join(study.archs)} under {len(study.recipes)} recipes",
        runs=runs,
        configuration=configuration(study),
        fingerprint=fingerprint(cohort),
        expectations=checks,
        failures=outcome.failures,
        pictures=cohort.name in _FREE,
    )
    return written
