"""Print a batch script for SLURM: a study as an array of workers, or the report after it.

    fp4jax slurm study > study.sbatch
    fp4jax slurm report > report.sbatch
    job=$(sbatch --parsable --array=0-15 study.sbatch paper-seeds --root /data/kaggle_3m)
    sbatch --dependency=afterany:$job report.sbatch runs/paper-seeds

What follows the script's name is for fp4jax study, or fp4jax report. The variable PYTHON names the
Python of the environment that fp4jax is installed in. Look at time, cores and memory in the script
first: they are an example.
"""

import dataclasses
from importlib import resources
from typing import Annotated, Literal

import tyro

from fp4jax.cli.command import Verb


@dataclasses.dataclass(frozen=True)
class Args:
    # which script
    script: Annotated[Literal["study", "report"], tyro.conf.Positional]


def command(args: Args) -> None:
    print(resources.files("fp4jax.cli.slurm").joinpath(f"{args.script}.sbatch").read_text(), end="")


VERB = Verb(command, Args, __doc__)
