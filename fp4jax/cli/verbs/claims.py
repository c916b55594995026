"""What a study's patients decide of the paper's five claims: tables, figures, a page.

    fp4jax claims runs/lgg-cv-cpu --out experiments/results/lgg_cv_64
    fp4jax claims --page docs/results_lgg_cv.md

With a folder of runs it collects first: the scores of every test patient, the runs and what
`fp4jax diagnose` left in them, as CSV, without images. All else follows from these files, also
without the runs: recipes against the baseline, patient by patient; groups of recipes; architecture
and recipe as sources of variance; each claim's verdict with the interval that decides it; two
figures. --page replaces the tables of a page, between <!-- NAME --> and <!-- end -->. Repeating it
changes no byte. What a study lacks is said, and decides nothing.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from fp4jax.analysis.claims import Collected, all_tables, draw, filled
from fp4jax.analysis.claims.coverage import missing
from fp4jax.analysis.claims.drawings import FIGURES
from fp4jax.analysis.claims.folder import check_replaceable
from fp4jax.analysis.claims.page import read_page
from fp4jax.analysis.claims.tables import PRIMARY
from fp4jax.analysis.figures.style import save
from fp4jax.cli.command import Verb
from fp4jax.files import replacing

_COMMITTED = Path("experiments/results/lgg_cv_64")


@dataclasses.dataclass(frozen=True)
class Args:
    # folder of a study, or of runs; default: what was collected before
    folder: Annotated[Path | None, tyro.conf.Positional] = None
    # gets the tables and figures, and has what was collected: a new or empty folder, or one of an
    # earlier call, whose files are replaced; default without a study: the repository's
    out: Path | None = None
    # page whose tables are replaced; default: none
    page: Path | None = None
    # draws of the bootstraps
    resamples: int = 2000


def command(args: Args) -> None:
    if args.folder is not None and args.out is None:
        raise ValueError(f"name a folder for the tables of {args.folder} with --out.")
    out = args.out or _COMMITTED
    # All that can be refused is refused before anything is written.
    check_replaceable(out)
    if args.page is not None:
        read_page(args.page)
    written = []
    if args.folder is not None:
        written += Collected.of_folder(args.folder).write(out)
    # Read back, so that it is the same with the runs and without them.
    study = Collected.read(out)
    tables = all_tables(study, args.resamples)
    written += tables.write(out)
    figures = draw(study, tables)
    for name in FIGURES:
        path = out / f"{name}.png"
        if name in figures:
            save(figures[name], path)
            written.append(path)
        else:  # one of an earlier call would be taken for this one's
            path.unlink(missing_ok=True)
    claims: Any = tables.claims
    for row in claims[claims["metric"] == PRIMARY[0]].to_dict(orient="records"):
        lacks = f", lacks {row['lacks']}" if row["lacks"] else ""
        interval = f"{row['estimate']:.3g} ({row['low']:.3g} to {row['high']:.3g}), "
        known = interval if row["measured"] else ""
        print(f"{row['claim']}{row['part']} {row['says']}: {known}{row['verdict']}{lacks}")
    for line in missing(tables.coverage):
        print(f"missing: {line}")
    if args.page is not None:
        text = filled(read_page(args.page), out, args.page)
        with replacing(args.page) as temporary:
            temporary.write_text(text, encoding="utf-8")
        written.append(args.page)
    for path in written:
        print(path)


VERB = Verb(command, Args, __doc__)
