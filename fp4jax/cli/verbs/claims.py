"""What a study's patients decide of the paper's five claims: tables, figures, a page.

    fp4jax claims runs/lgg-cv-cpu --out experiments/results/lgg_cv_64
    fp4jax claims runs/here runs/there --out tables
    fp4jax claims --page docs/results_lgg_cv.md

With folders of runs, or of what was collected before, it collects first: the scores of every test
patient, the runs, what `fp4jax diagnose` left in them and `fp4jax keep-lists` beside them, as CSV,
without images. A run that several folders have counts once. All else follows from these files, also
without the runs: recipes against the baseline, patient by patient; groups of recipes; architecture
and recipe as sources of variance; each claim's verdict with the interval that decides it; two
figures. --page replaces the tables of a page, between <!-- NAME --> (of another
study's tables: <!-- NAME of FOLDER -->) and <!-- end -->. Repeating it
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
from fp4jax.analysis.claims.joined import collect
from fp4jax.analysis.claims.keep_lists import compare_lists, copy_lists, find_lists
from fp4jax.analysis.claims.page import read_page
from fp4jax.analysis.claims.tables import PRIMARY
from fp4jax.analysis.figures.style import save
from fp4jax.cli.command import Verb
from fp4jax.files import replacing

_COMMITTED = Path("experiments/results/lgg_cv_64")


@dataclasses.dataclass(frozen=True)
class Args:
    # folders of a study, of runs, or with what an earlier call collected; default: what is in --out
    folders: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    # gets the tables and figures, and has what was collected: a new or empty folder, or one of an
    # earlier call, whose files are replaced; default without a study: the repository's
    out: Path | None = None
    # page whose tables are replaced; default: none
    page: Path | None = None
    # draws of the bootstraps
    resamples: int = 2000


def command(args: Args) -> None:
    if args.folders and args.out is None:
        of = ", ".join(map(str, args.folders))
        raise ValueError(f"name a folder for the tables of {of} with --out.")
    out = args.out or _COMMITTED
    # All that can be refused is refused before anything is written.
    check_replaceable(out)
    if args.page is not None:
        read_page(args.page)
    written = []
    if args.folders:
        study, lists = collect(args.folders), find_lists(args.folders)
        written += [*study.write(out), *copy_lists(lists, out)]
    written += compare_lists(out)
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
    for path in dict.fromkeys(written):
        print(path)


VERB = Verb(command, Args, __doc__)
