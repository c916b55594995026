"""Evaluate finished runs again, or on other data: all metrics of the test patients.

    python -m experiments.evaluate runs/swin_500k_baseline_... --data phantom --image-size 128

Uses the best epoch's parameters and the threshold chosen on the run's validation patients. With
--all-patients, every patient of the cohort counts: for data that the run was not trained on.
"""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import tyro

from experiments.command import Images, main
from fp4jax.train import evaluate_folder


@dataclasses.dataclass(frozen=True)
class Args:
    # folders of finished runs
    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]
    images: Images = dataclasses.field(default_factory=Images)
    # every patient, not only the test patients of the run's split
    all_patients: bool = False


def command(args: Args) -> None:
    cohort = args.images.cohort()
    for path in args.folders:
        scores = evaluate_folder(path, cohort, all_patients=args.all_patients)
        print(json.dumps({"run": path.name, **scores}, indent=2))


if __name__ == "__main__":
    main(command, Args, __doc__)
