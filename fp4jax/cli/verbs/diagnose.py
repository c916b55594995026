"""Where a recipe hurts a trained model: its operands, products, attention and gradients by layer.

    fp4jax diagnose runs/swin_500k_baseline_... --recipes full 2d+rht+sr
    fp4jax diagnose runs/cnn_4m_full_lgg_... --root kaggle_3m
    fp4jax diagnose runs/unet_500k_full_brats2020_... --root brats
    fp4jax diagnose runs/swin_500k_baseline_... --sensitivity --budget 0.9

Records every quantized layer's input, weight and output gradient in high precision on batches of
the run's training patients, with new weights and with those of its best epoch, and measures what
each recipe does to them. Which data, of which size, is in the run's folder; where they lie is not.
Writes diagnosis.csv and diagnosis.png into it.

With --sensitivity it quantizes each layer of the best epoch alone instead, and each of its
operands, and writes what that costs: sensitivity_RECIPE.csv, .json and .png. Attentions are
layers, too, where the run's own are quantized or --attentions names a recipe. With --budget it
proposes the layers to keep in high precision, and writes rules for --recipe @FILE.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fp4jax.analysis.diagnosis import diagnose_run, patients_of, print_worst
from fp4jax.analysis.diagnosis.run import recipes_for
from fp4jax.analysis.sensitivity import label, propose, sensitivity_of_run
from fp4jax.cli.command import Verb
from fp4jax.train import Data, Source, Trained, read_trained


@dataclasses.dataclass(frozen=True)
class Args:
    # folder of a run
    folder: Annotated[Path, tyro.conf.Positional]

    source: Source = dataclasses.field(default_factory=Source)
    # by name or id; default: the run's own, for a baseline run full and 2d+rht+sr
    recipes: tuple[str, ...] = ()
    # recipes of the products inside attention; default: the run's own
    attentions: tuple[str, ...] = ()
    # new weights, those of the best epoch
    states: tuple[Literal["init", "best"], ...] = ("init", "best")
    # batches to measure on
    batches: int = 2
    # rounding keys for each batch, for stochastic recipes
    draws: int = 8
    # what each layer of the best epoch costs if it alone is quantized, instead of all that
    sensitivity: bool = False
    # with --sensitivity: what layers are weighed by
    metric: Literal["kl", "loss", "gradient", "auprc"] = "kl"
    # with --sensitivity: propose what to keep in high precision, so that this share of the layers'
    # multiply-adds runs in FP4
    budget: float | None = None

    def __post_init__(self):
        if self.budget is not None and not self.sensitivity:
            raise ValueError("budget is of the layers' costs; pass --sensitivity with it.")
        if self.sensitivity and len(self.attentions) > 1:
            raise ValueError("attentions are several; --sensitivity takes one of them.")
        if self.budget is not None and not 0 < self.budget <= 1:
            raise ValueError(f"budget is {self.budget}; give a share, above 0 and at most 1.")


def command(args: Args) -> None:
    run = read_trained(args.folder)
    data = run.config.data.open(args.source)
    if args.sensitivity:
        sensitivity(args, run, data)
        return
    rows = diagnose_run(
        args.folder,
        data,
        args.recipes,
        attentions=args.attentions,
        states=args.states,
        batches=args.batches,
        draws=args.draws,
    )
    print_worst(rows)
    print(f"measured on {patients_of(run, data)}")
    for name in ("diagnosis.csv", "diagnosis.png"):
        print(args.folder / name)


def sensitivity(args: Args, run: Trained, data: Data) -> None:
    attention = next(iter(args.attentions), run.config.attention)
    for recipe in recipes_for(run.config, args.recipes):
        table = sensitivity_of_run(
            args.folder,
            data,
            recipe,
            attention=attention,
            metric=args.metric,
            batches=args.batches,
            budget=args.budget,
        )
        print(f"{table}\nmeasured on {patients_of(run, data)}")
        stem = f"sensitivity_{label(table)}"
        for ending in (".csv", ".json", ".png"):
            print(args.folder / f"{stem}{ending}")
        if args.budget is not None:
            proposal = propose(table, args.budget)
            print(proposal)
            print(f"its rules: --recipe @{proposal.write(args.folder)}")


VERB = Verb(command, Args, __doc__)
