"""Path -> text of each file that code makes; a test compares them with those that are there."""

from pathlib import Path

from docs.generate import block, number_grid, operands, results

ROOT = Path(__file__).parents[2]


def made() -> dict[str, str]:
    page = ROOT / results.PAGE
    return {
        "docs/figures/e2m1.svg": number_grid.draw(),
        "docs/figures/block.svg": block.draw(),
        "docs/figures/operands.svg": operands.draw(),
        results.PAGE: results.filled(page.read_text(), ROOT / "experiments" / "results"),
    }
