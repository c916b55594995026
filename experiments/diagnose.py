"""Where a recipe hurts a trained model: its operands, products, attention and gradients by layer.

    python -m experiments.diagnose runs/swin_500k_baseline_... --recipes full 2d+rht+sr
    python -m experiments.diagnose runs/cnn_4m_full_lgg_... --root kaggle_3m
    python -m experiments.diagnose runs/unet_500k_full_brats2020_... --root brats

Records every quantized layer's input, weight and output gradient in high precision on batches of
the run's training patients, with new weights and with those of its best epoch, and measures what
each recipe does to them. Which data, of which size, is in the run's folder; where they lie is not.
Writes diagnosis.csv and diagnosis.png into it.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.command import main
from fp4jax.analysis.diagnosis import diagnose_run, patients_of, print_worst
from fp4jax.train import Source, read_trained


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


def command(args: Args) -> None:
    run = read_trained(args.folder)
    data = run.config.data.open(args.source)
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


if __name__ == "__main__":
    main(command, Args, __doc__)
