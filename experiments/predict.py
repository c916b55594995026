"""Segment a folder of slices with a packed NVFP4 model: masks, overlays and a table.

    python -m experiments.predict runs/swin_4m_2d-rht-sr_... --input slices --out masks
    python -m experiments.predict runs/swin_4m_2d-rht-sr_... --save model.safetensors
    python -m experiments.predict model.safetensors --input slices --out masks

Takes the best epoch of a finished run, or a packed file. For slice.tif it writes slice_mask.tif (0
and 255) and slice_overlay.png, and predictions.csv for all. For research only, no medical device.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.command import main
from fp4jax import export, packed


@dataclasses.dataclass(frozen=True)
class Args:
    # folder of a finished run, or a file that --save wrote
    model: Annotated[Path, tyro.conf.Positional]
    # folder of slices (.tif, .png), with the channels of the run's cohort
    input: Path | None = None
    # folder for masks, overlays and the table
    out: Path = Path("masks")
    # write the packed model of a run to this file
    save: Path | None = None
    # what is not quantized is stored so
    rest: Literal["bfloat16", "float32"] = "bfloat16"
    # quantize a run with another recipe than its own
    recipe: str | None = None
    options: export.Options = dataclasses.field(default_factory=export.Options)


def command(args: Args) -> None:
    if args.input is None and args.save is None:
        raise ValueError("nothing to do: give --input, --save, or both.")
    if args.save and args.save.exists() and not args.options.overwrite:
        raise ValueError(f"{args.save} exists; name another file, or pass --overwrite.")
    if args.model.is_dir():
        model, about = export.packed_run(args.model, recipe=args.recipe, rest_dtype=args.rest)
    elif args.save or args.recipe:
        raise ValueError(f"--save and --recipe are for runs, but {args.model} is no folder.")
    else:
        model, about = export.load_packed(args.model), export.describe(args.model)
    print(packed.size(model))
    if args.save:
        print(f"wrote {export.save_packed(args.save, model, about)}")
    if args.input:
        rows = export.segment(model, about, args.input, args.out, args.options)
        positive = sum(row.lesion_pixels > 0 for row in rows)
        print(f"{args.out}: {len(rows)} slices, {positive} with lesion")


if __name__ == "__main__":
    main(command, Args, __doc__)
