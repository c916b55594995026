"""Where a recipe hurts a trained model: its operands, products, attention and gradients by layer.

    python -m experiments.diagnose runs/swin_500k_baseline_... --recipes full 2d+rht+sr
    python -m experiments.diagnose runs/cnn_4m_full_lgg_... --root kaggle_3m

Records every quantized layer's input, weight and output gradient in high precision on batches of
the run's training slices, with new weights and with those of its best epoch, and measures what each
recipe does to them. Writes diagnosis.csv and diagnosis.png into the run's folder.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.command import Source, main
from fp4jax.analysis.diagnosis import diagnose_run, finished_run, print_worst


@dataclasses.dataclass(frozen=True)
class Args:
    # folder of a finished run
    folder: Annotated[Path, tyro.conf.Positional]
    source: Source = dataclasses.field(default_factory=Source)
    # by name or id; default: the run's own, for a baseline run full and 2d+rht+sr
    recipes: tuple[str, ...] = ()
    # new weights, those of the best epoch, those of the last
    states: tuple[Literal["init", "best", "last"], ...] = ("init", "best")
    # training batches to measure on
    batches: int = 2
    # rounding keys for each batch, for stochastic recipes
    draws: int = 8


def command(args: Args) -> None:
    config = finished_run(args.folder).config
    cohort = args.source.load(config.data, config.image_size)
    rows = diagnose_run(
        args.folder,
        cohort,
        args.recipes,
        states=args.states,
        batches=args.batches,
        draws=args.draws,
    )
    print_worst(rows)
    for name in ("diagnosis.csv", "diagnosis.png"):
        print(args.folder / name)


if __name__ == "__main__":
    main(command, Args, __doc__)
