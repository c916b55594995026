"""Path -> text of each file that code makes; a test compares them with those that are there."""

from pathlib import Path

from docs.generate import block, number_grid, operands, results
from fp4jax.analysis.claims import filled

ROOT = Path(__file__).parents[2]
BY_PATIENT = "docs/results_lgg_cv.md"


def made() -> dict[str, str]:
    page, by_patient = ROOT / results.PAGE, ROOT / BY_PATIENT
    tables = ROOT / "experiments" / "results"
    return {
        "docs/figures/e2m1.svg": number_grid.draw(),
        "docs/figures/block.svg": block.draw(),
        "docs/figures/operands.svg": operands.draw(),
        results.PAGE: results.filled(page.read_text(), tables),
        BY_PATIENT: filled(by_patient.read_text(), tables / "lgg_cv_64", by_patient),
    }
