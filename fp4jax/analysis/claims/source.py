"""What the tables of a page are made from."""

from pathlib import Path
from typing import NamedTuple

from fp4jax.analysis.claims.collected import Collected
from fp4jax.analysis.claims.tables import Tables

#: In the place of a table that the study does not allow yet.
NOTHING = "Nothing yet: no recipe has runs beside its baseline's."


class Source(NamedTuple):
    """What a page is written from: a folder, what is in it, its figures as the page links them."""

    folder: Path
    study: Collected
    tables: Tables
    figures: dict[str, str]
