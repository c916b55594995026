"""Write the report of a folder of runs: a page, tables and figures.

    fp4jax report runs/demo
    fp4jax report runs/lgg --patients     # with images of the patients: keep them to yourself

Describes all finished runs that are there, whichever commands trained them, and says what has
become of the others. Repeating it changes nothing. For research only, no medical device.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from fp4jax.analysis.report import report_folder
from fp4jax.cli.command import Verb


@dataclasses.dataclass(frozen=True)
class Args:
    # folder of a study, or of runs
    folder: Annotated[Path, tyro.conf.Positional]
    # show images of patients, which the data's licence may forbid to pass on; of synthetic ones
    # they are always shown
    pictures: bool = False
    # write a page of predictions for each test patient, into patients/; of synthetic ones they are
    # always written
    patients: bool = False


def command(args: Args) -> None:
    found = report_folder(args.folder, pictures=args.pictures, patients=args.patients)
    print(f"{found.finished} runs finished, {len(found.open)} open, {len(found.failures)} failed")
    for name, status in found.open:
        print(f"{name}: {status}")
    for name, error in found.failures:
        print(f"failed: {name}: {error.splitlines()[0]}")
    for path in found.paths:
        print(path)


VERB = Verb(command, Args, __doc__)
