"""Segment a folder of slices with a run, or with a packed NVFP4 model: masks, overlays, a table.

    python -m experiments.predict runs/swin_4m_2d-rht-sr_... --input slices --out masks
    python -m experiments.predict runs/swin_4m_2d-rht-sr_... --save model.safetensors
    python -m experiments.predict model.safetensors --input slices --out masks

Takes the best epoch of a run, or a packed file. For slice.tif it writes slice_mask.tif (0 and 255)
and slice_overlay.png, and predictions.csv for all. A slice's mask does not depend on the others.
Repeating a command goes on where it was interrupted. Packed runs on volumes are for
experiments.segment. For research only, no medical device.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.command import main
from fp4jax import packed, predict
from fp4jax.files import expanded
from fp4jax.predict import Network, SliceOptions


@dataclasses.dataclass(frozen=True)
class Args:
    # folder of a run, or a file that --save wrote
    model: Annotated[Path, tyro.conf.Positional]
    # folder of slices (.tif, .png), with the channels of the run's cohort
    input: Path | None = None
    # folder for masks, overlays and the table (default: masks)
    out: Path | None = None
    # write the packed model of a run to this file, and segment with that
    save: Path | None = None
    # with --save: what is not quantized is stored so (default: bfloat16)
    rest: Literal["bfloat16", "float32"] | None = None
    # quantize a run with another recipe than its own
    recipe: str | None = None
    options: SliceOptions = dataclasses.field(default_factory=SliceOptions)

    def __post_init__(self):
        for name in ("model", "input", "out", "save"):
            object.__setattr__(self, name, expanded(getattr(self, name)))


def command(args: Args) -> None:
    _check(args)
    network = _network(args)
    if args.input is None:
        return
    out = args.out or Path("masks")
    rows = predict.segment_slices(network, args.input, out, args.options)
    positive = sum(row.lesion_pixels > 0 for row in rows)
    print(f"{out}: {len(rows)} slices, {positive} with lesion")


def _check(args: Args) -> None:
    """Nothing that was asked for may be without an effect."""
    if args.input is None and args.save is None:
        raise ValueError("nothing to do: give --input, --save, or both.")
    if args.input is None:
        options = {"--out": args.out, "--threshold": args.options.threshold}
        options["--channel-order"] = args.options.channel_order
        given = [name for name, value in options.items() if value is not None]
        if given:
            raise ValueError(f"{', '.join(given)}: nothing is segmented; give --input, too.")
    if not args.model.is_dir():
        of_runs = {"--save": args.save, "--recipe": args.recipe, "--rest": args.rest}
        given = [name for name, value in of_runs.items() if value]
        if given:
            raise ValueError(f"{', '.join(given)}: for runs, but {args.model} is no folder.")
    elif args.rest and not args.save:
        raise ValueError("--rest says how --save stores a model; give --save, too.")


def _network(args: Args) -> Network:
    if not args.model.is_dir():
        network = predict.from_file(args.model)
        print(packed.size(predict.load_packed(args.model)))
        return network
    if args.save is None:
        return predict.from_run(args.model, recipe=args.recipe)
    rest = args.rest or "bfloat16"
    model, about = predict.packed_run(args.model, recipe=args.recipe, rest_dtype=rest)
    network = predict.from_module(model, about)
    if args.save.exists() and not args.options.overwrite:
        # Of a command that was interrupted and is repeated.
        if predict.from_file(args.save).identity != network.identity:
            raise ValueError(f"{args.save} exists; name another file, or pass --overwrite.")
    else:
        predict.save_packed(args.save, model, about)
    print(f"{args.save}: {packed.size(model)}")
    return network


if __name__ == "__main__":
    main(command, Args, __doc__)
