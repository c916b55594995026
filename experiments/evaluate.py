"""Evaluate runs again, or on other data: all metrics of patients that they have not seen.

    python -m experiments.evaluate runs/swin_500k_baseline_...
    python -m experiments.evaluate runs/swin_500k_baseline_lgg_... --root kaggle_3m
    python -m experiments.evaluate runs/swin_500k_baseline_lgg_... --data phantom

Data, size and channels are those of the run, whose files --root names. Of the run's own data its
test patients are scored; of other data (--data, --patients, --image-size) those that it was neither
trained nor its epoch chosen on. Uses the best epoch's parameters and the threshold chosen on the
run's validation patients.
"""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import tyro

from experiments.command import main
from fp4jax.train import Slices, Source, Trained, evaluate_folder, read_trained


@dataclasses.dataclass(frozen=True)
class Other:
    """Other data than the run's; default: its own."""

    # cohort: phantom, lgg, brats, msd or a registered one
    data: str | None = None
    # side of the images in pixels
    image_size: int | None = None
    # patients of the phantom cohort, and slices of each
    patients: int | None = None
    slices: int | None = None

    def task(self, run: Trained):
        """The run's task with what differs."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        if not given:
            return run.config.data
        if not isinstance(run.config.data, Slices):
            flags = ", ".join("--" + name.replace("_", "-") for name in given)
            raise ValueError(
                f"{flags}: for runs on slices, {run.folder.path} is one on {run.config.data.kind}; "
                "give --root."
            )
        if "data" in given:
            given["cohort"] = given.pop("data")
            if given["cohort"] != run.config.data.cohort:
                # Another cohort has its own number of patients and slices.
                given = {"patients": None, "slices": None, **given}
        return dataclasses.replace(run.config.data, **given)


@dataclasses.dataclass(frozen=True)
class Args:
    # folders of runs
    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]
    source: Source = dataclasses.field(default_factory=Source)
    other: Other = dataclasses.field(default_factory=Other)
    # of the run's own data too, every patient that it has not seen
    all_patients: bool = False


def command(args: Args) -> None:
    if not args.folders:
        raise ValueError("no runs: name one or more folders of runs, such as runs/*.")
    refused = []
    for path in args.folders:
        try:
            data = args.other.task(read_trained(path)).open(args.source)
            scores = evaluate_folder(path, data, all_patients=args.all_patients)
        except ValueError as error:
            refused.append(str(error))
        else:
            print(json.dumps({"folder": path.name, **scores}, indent=2), flush=True)
    if refused:
        raise ValueError("; ".join(refused))


if __name__ == "__main__":
    main(command, Args, __doc__)
