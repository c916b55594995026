"""Tables of a page in Markdown, each between ``<!-- NAME -->`` and ``<!-- end -->``.

``<!-- NAME of FOLDER -->`` is a table of another study, collected in FOLDER, seen from the page.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path

from fp4jax.analysis.claims import contrast_blocks, inside_blocks, keep_list_blocks, study_blocks
from fp4jax.analysis.claims.collected import METRICS, Collected
from fp4jax.analysis.claims.source import NOTHING, Source
from fp4jax.analysis.claims.tables import PRIMARY, Tables

_BEGIN = re.compile(r"<!-- (?!end -->)([\w ]+?)(?: of (\S+))? -->\n")
_PLACE = re.compile(_BEGIN.pattern + r".*?<!-- end -->", re.DOTALL)


def filled(text: str, folder: Path, page: Path) -> str:
    """The page with its tables as the files in the folder have them; the same, the same text.

    Args:
        text: of the page. What stands between ``<!-- NAME -->`` and ``<!-- end -->`` is replaced,
            for the names of :data:`TABLES`.
        folder: with the tables that :meth:`fp4jax.analysis.claims.Tables.write` and
            :meth:`fp4jax.analysis.claims.Collected.write` left, and figures.
        page: where it is to be, for links to the figures.

    Raises:
        ValueError: see :func:`check_places`.
    """
    check_places(text, page)
    sources: dict[Path, Source] = {}

    def fill(match: re.Match[str]) -> str:
        own = _other(match, page) or folder
        if own not in sources:
            sources[own] = _source(own, page)
        return f"{match[0].splitlines()[0]}\n\n{TABLES[match[1]](sources[own])}\n\n<!-- end -->"

    return _PLACE.sub(fill, text)


def _other(place: re.Match[str], page: Path) -> Path | None:
    """Where the study lies that a place names."""
    return Path(os.path.normpath(page.parent / place[2])) if place[2] else None


def _source(folder: Path, page: Path) -> Source:
    figures = {
        path.stem: Path(os.path.relpath(path, page.parent)).as_posix()
        for path in sorted(folder.glob("*.png"))
    }
    return Source(folder, Collected.read(folder), Tables.read(folder), figures)


def read_page(page: Path) -> str:
    """The text of a page that can be filled.

    Raises:
        ValueError: it is no text, or has no places for tables, or not those that there are.
    """
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(
            f"page {page} is not there; write one with places for tables first."
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"page {page} is not UTF-8, from byte {error.start} on; save it so."
        ) from error
    check_places(text, page)
    return text


def check_places(text: str, page: Path) -> None:
    """That a page has places for tables, each with an end, for names of :data:`TABLES`.

    Folders of other studies must be there.

    Raises:
        ValueError: else.
    """
    places = list(_PLACE.finditer(text))
    for place in places:
        if place[1] not in TABLES:
            raise ValueError(
                f"{page} has a table <!-- {place[1]} -->; allowed: {', '.join(TABLES)}."
            )
        other = _other(place, page)
        if other is not None and not (other / "claims.csv").is_file():
            raise ValueError(
                f"{page} has a table of {other}, where there are none; collect that study first: "
                f"fp4jax claims STUDY --out {other}."
            )
    begun = [name for name, _ in _BEGIN.findall(text) if name in TABLES]
    if len(begun) > len(places):
        raise ValueError(
            f"{page} has {len(begun)} places for tables, and {len(places)} that end; write "
            "<!-- end --> on a line of its own after each."
        )
    if not places:
        raise ValueError(
            f"{page} has no place for a table; write <!-- NAME --> and <!-- end -->, each on a "
            f"line of its own, for a NAME of {', '.join(TABLES)}."
        )


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
    "keep lists": keep_list_blocks.lists,
    "keep lists layers": keep_list_blocks.layers,
    "keep lists patients": keep_list_blocks.contrasts,
    "inside gradients": inside_blocks.gradients,
    "inside attention": inside_blocks.attention,
    "inside layers": inside_blocks.layers,
    "figure contrasts": figure(
        "contrasts", "What each recipe costs a patient, with the margin of equivalence"
    ),
    "figure patients": figure("patients", "AUPRC of every test patient, recipe against baseline"),
}
