"""What a study's patients decide of the paper's five claims: tables, figures, a page.

    fp4jax claims runs/lgg-cv-cpu --out experiments/results/lgg_cv_64
    fp4jax claims --out experiments/results/lgg_cv_64 --page docs/results_lgg_cv.md

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
from fp4jax.analysis.claims.tables import PRIMARY
from fp4jax.analysis.figures.style import save
from fp4jax.cli.command import Verb
from fp4jax.files import replacing


@dataclasses.dataclass(frozen=True)
class Args:
    # folder of a study, or of runs; default: what was collected before
    folder: Annotated[Path | None, tyro.conf.Positional] = None
    # gets the tables and figures, and has what was collected
    out: Path = Path("experiments/results/lgg_cv_64")
    # page whose tables are replaced; default: none
    page: Path | None = None
    # draws of the bootstraps
    resamples: int = 2000


def command(args: Args) -> None:
    if args.page is not None and not args.page.is_file():
        raise ValueError(f"page {args.page} is not there; write one with places for tables first.")
    written = []
    if args.folder is not None:
        written += Collected.of_folder(args.folder).write(args.out)
    # Read back, so that it is the same with the runs and without them.
    study = Collected.read(args.out)
    tables = all_tables(study, args.resamples)
    written += tables.write(args.out)
    figures = draw(study, tables)
    for name in FIGURES:
        path = args.out / f"{name}.png"
        if name in figures:
            save(figures[name], path)
            written.append(path)
        else:  # one of an earlier study would be taken for this one's
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
        text = filled(args.page.read_text(encoding="utf-8"), args.out, args.page)
        with replacing(args.page) as temporary:
            temporary.write_text(text, encoding="utf-8")
        written.append(args.page)
    for path in written:
        print(path)


VERB = Verb(command, Args, __doc__)
