"""Tables of a page in Markdown, each between ``<!-- NAME -->`` and ``<!-- end -->``."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from fp4jax.analysis.claims import contrast_blocks, inside_blocks, study_blocks
from fp4jax.analysis.claims.collected import METRICS, Collected
from fp4jax.analysis.claims.source import NOTHING, Source
from fp4jax.analysis.claims.tables import PRIMARY, Tables


def filled(text: str, folder: Path, page: Path) -> str:
    """The page with its tables as the files in the folder have them; the same, the same text.

    Args:
        text: of the page. What stands between ``<!-- NAME -->`` and ``<!-- end -->`` is replaced,
            for the names of :data:`TABLES`.
        folder: with the tables that :meth:`fp4jax.analysis.claims.Tables.write` and
            :meth:`fp4jax.analysis.claims.Collected.write` left, and figures.
        page: where it is to be, for links to the figures.

    Raises:
        ValueError: a name that is none, or a page without any.
    """
    figures = {
        path.stem: Path(os.path.relpath(path, page.parent)).as_posix()
        for path in sorted(folder.glob("*.png"))
    }
    source = Source(Collected.read(folder), Tables.read(folder), figures)

    def fill(match: re.Match[str]) -> str:
        if match[1] not in TABLES:
            raise ValueError(
                f"{page} has a table <!-- {match[1]} -->; allowed: {', '.join(TABLES)}."
            )
        return f"<!-- {match[1]} -->\n\n{TABLES[match[1]](source)}\n\n<!-- end -->"

    pattern = r"<!-- (?!end -->)([\w ]+) -->\n.*?<!-- end -->"
    text, count = re.subn(pattern, fill, text, flags=re.DOTALL)
    if not count:
        raise ValueError(
            f"{page} has no place for a table; write <!-- NAME --> and <!-- end -->, each on a "
            f"line of its own, for a NAME of {', '.join(TABLES)}."
        )
    return text


def figure(name: str, caption: str) -> Callable[[Source], str]:
    """A picture, once there is one."""

    def make(source: Source) -> str:
        link = source.figures.get(name)
        return f"![{caption}]({link})" if link else NOTHING

    return make


#: Name -> what makes it.
TABLES: dict[str, Callable[[Source], str]] = {
    "status": study_blocks.status,
    "design": study_blocks.design,
    "extent": study_blocks.extent,
    "means": study_blocks.means,
    "recipes auprc": contrast_blocks.recipes(["auprc"]),
    "recipes f2": contrast_blocks.recipes(["f2"]),
    "recipes secondary": contrast_blocks.recipes(METRICS[len(PRIMARY) :]),
    "groups": contrast_blocks.groups,
    "variance": contrast_blocks.sources,
    "claims": contrast_blocks.verdicts,
    "parts": contrast_blocks.parts,
    "inside": inside_blocks.networks,
    "inside layers": inside_blocks.layers,
    "figure contrasts": figure(
        "contrasts", "What each recipe costs a patient, with the margin of equivalence"
    ),
    "figure patients": figure("patients", "AUPRC of every test patient, recipe against baseline"),
}
