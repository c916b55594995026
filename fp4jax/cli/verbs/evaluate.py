"""Evaluate runs and packed files, again or on other data: all metrics of patients not seen before.

    fp4jax evaluate runs/swin_500k_baseline_...
    fp4jax evaluate runs/swin_500k_baseline_lgg_... --root kaggle_3m
    fp4jax evaluate runs/swin_500k_baseline_lgg_... --data phantom
    fp4jax evaluate model.safetensors --root kaggle_3m --time
    fp4jax evaluate runs/swin_500k_2d-rht-sr_... --target tensorrt openvino

Data, size and channels are those of the run, whose files --root names. Of the run's own data its
test patients are scored; of other data (--data, --patients, --image-size) those that it was neither
trained nor its epoch chosen on. Uses the best epoch's parameters and the threshold chosen on the
run's validation patients. A packed file knows its patients by hashes; one of an earlier version
does not, and is scored only with --all-patients. --target scores a run once more, as targets would
compute it (see fp4jax targets); those scores stand beside its own.
"""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fp4jax import deploy, predict
from fp4jax.cli.command import Verb
from fp4jax.files import expanded
from fp4jax.train import Slices, Source, Task, evaluate_folder, read_trained


@dataclasses.dataclass(frozen=True)
class Other:
    """Other data than the run's; default: its own."""

    # cohort: phantom, lgg, images, brats, msd or a registered one
    data: str | None = None
    # side of the images in pixels
    image_size: int | None = None
    # patients of the phantom cohort
    patients: int | None = None
    # slices of each of its patients
    slices: int | None = None

    def task(self, own: Task, path: Path) -> Task:
        """The task of a run or a file with what differs."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        if not given:
            return own
        if not isinstance(own, Slices):
            flags = ", ".join("--" + name.replace("_", "-") for name in given)
            raise ValueError(
                f"{flags}: for runs on slices, {path} is one on {own.kind}; give --root."
            )
        if "data" in given:
            given["cohort"] = given.pop("data")
            if given["cohort"] != own.cohort:
                # Another cohort has its own number of patients and slices.
                given = {"patients": None, "slices": None, **given}
        return dataclasses.replace(own, **given)


@dataclasses.dataclass(frozen=True)
class Args:
    # folders of runs, or packed files
    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]

    source: Source = dataclasses.field(default_factory=Source)
    other: Annotated[Other, tyro.conf.arg(name="other-data")] = dataclasses.field(
        default_factory=Other
    )
    # of the run's own data too, every patient that it has not seen
    all_patients: bool = False
    # with the static scales that the runs were calibrated to; default: their own
    static: bool = False
    # measure how long one image takes, too
    time: bool = False
    # score runs as these targets would compute them, too: tensorrt, openvino, ...
    target: tuple[str, ...] = ()
    # on targets: quantize to FP8 what cannot run in FP4 and can in FP8
    fp8: bool = False
    # on targets: the type of 16-bit products (default: the target's)
    half: Literal["bfloat16", "float16"] | None = None


def command(args: Args) -> None:
    if not args.folders:
        raise ValueError("no runs: name one or more folders of runs, such as runs/*.")
    for name in args.target:
        deploy.get_runtime(name)
    if not args.target and (args.fp8 or args.half):
        raise ValueError("--fp8 and --half say how targets compute; give --target, too.")
    refused = []
    for path in args.folders:
        path = expanded(path) or path
        try:
            record = _evaluated(path, args)
        except ValueError as error:
            refused.append(str(error))
        else:
            print(json.dumps(record, indent=2, ensure_ascii=False), flush=True)
    if refused:
        raise ValueError("; ".join(refused))


def _evaluated(path: Path, args: Args) -> dict[str, Any]:
    """What is printed of a run or a file."""
    packed = path.is_file()
    own = predict.describe(path).create_task() if packed else read_trained(path).config.data
    data = args.other.task(own, path).open(args.source)
    if packed and args.target:
        raise ValueError(
            f"--target: for runs; {path} has 4-bit weights alone, which a target may not take as "
            "they are. Name the folder of its run."
        )
    if packed and args.static:
        raise ValueError(f"--static: for runs; the scales of {path} are in the file.")
    if packed:
        scores = predict.evaluate_file(path, data, all_patients=args.all_patients)
    else:
        scores = evaluate_folder(path, data, all_patients=args.all_patients, static=args.static)
    record = {"file" if packed else "folder": path.name, **scores}
    if args.target:
        options: Any = {"all_patients": args.all_patients, "fp8": args.fp8, "half": args.half}
        record["targets"] = {
            name: deploy.evaluate_on(path, data, name, **options) for name in args.target
        }
    if args.time:
        network = predict.from_file(path) if packed else predict.from_run(path, static=args.static)
        record["latency_ms"] = dataclasses.asdict(predict.latency(network))
    return record


VERB = Verb(command, Args, __doc__)
