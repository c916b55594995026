"""Segment slices or NIfTI cases with runs or packed NVFP4 models; pack a run into a file.

    fp4jax predict runs/swin_4m_2d-rht-sr_... --input slices --out masks
    fp4jax predict runs/swin_4m_2d-rht-sr_... --save model.safetensors
    fp4jax predict model.safetensors --input patient/flair.nii.gz --probabilities
    fp4jax predict runs/swin_4m_..._fold0_... --folds --mirror --input slices

Takes the best epoch of a run, or a packed file; of several (--folds: of all folds of a
cross-validation) the mean of their probabilities. The input is a file, a folder, or a folder of
patients' folders: PNG and TIFF, or NIfTI, named as the run's files were or as --patterns says. For
slice.tif it writes slice_mask.tif (0 and 255), and predictions.csv for all, with Dice where a
slice_mask.tif lies beside; with --pictures also slice_overlay.png. For NIfTI it does what
fp4jax segment does. Repeating a command goes on where it was interrupted. For research only,
no medical device.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fp4jax import packed, predict
from fp4jax.cli.case_files import Files, given, reading
from fp4jax.cli.command import Verb
from fp4jax.cli.models import network_of
from fp4jax.cli.verbs.segment import print_case
from fp4jax.data.nifti.volume import is_nifti_name
from fp4jax.files import expanded
from fp4jax.predict import CaseOptions, Network, SliceOptions, slice_files
from fp4jax.predict.slices import dice_of
from fp4jax.train import Source


@dataclasses.dataclass(frozen=True)
class Args:
    # folders of runs, or files that --save wrote
    models: Annotated[tuple[Path, ...], tyro.conf.Positional]
    # file or folder of slices (.tif, .png), with the channels of the run's cohort, or of NIfTI
    input: Path | None = None
    # folder for masks and the table (default: masks)
    out: Path | None = None
    # of one run of a cross-validation: all of its folds
    folds: bool = False
    # average over the mirror images that the training saw
    mirror: bool = False
    # write the packed model of a run to this file, and segment with that
    save: Path | None = None
    # with --save: what is not quantized is stored so (default: bfloat16)
    rest: Literal["bfloat16", "float32"] | None = None
    # quantize a run with another recipe than its own
    recipe: str | None = None
    # with the static scales that the run was calibrated to (train --calibrate)
    static: bool = False
    # decode a packed file's weights once: faster where no FP4 units are, in a float model's memory
    decode: bool = False
    # measure how long one image takes
    time: bool = False

    options: Annotated[SliceOptions, tyro.conf.arg(name="slices")] = dataclasses.field(
        default_factory=SliceOptions
    )
    # of NIfTI: connected components of a region that are smaller are removed, ml (default: none)
    min_component: float | None = None

    files: Annotated[Files, tyro.conf.arg(name="NIfTI")] = dataclasses.field(default_factory=Files)

    def __post_init__(self):
        for name in ("input", "out", "save"):
            object.__setattr__(self, name, expanded(getattr(self, name)))


def command(args: Args) -> None:
    _check(args)
    nifti = args.input is not None and _is_nifti(args.input)
    options = _case_options(args) if nifti else args.options
    network = _network(args)
    if args.time:
        print(predict.latency(network))
    if args.input is None:
        return
    out = args.out or Path("masks")
    if isinstance(options, CaseOptions):
        way = reading(args.files, network, args.input)
        for case in predict.segment_volumes(network, Source(args.input), out, options, reading=way):
            print_case(case)
        return
    rows = predict.segment_slices(network, args.input, out, options)
    positive, dice = sum(row.lesion_pixels > 0 for row in rows), dice_of(rows)
    compared = "" if dice is None else f", Dice {dice:.3f} of all pixels with a mask beside"
    print(f"{out}: {len(rows)} slices, {positive} with lesion{compared}")


def _is_nifti(path: Path) -> bool:
    """What the input is, by its files' names.

    Raises:
        ValueError: a folder that has both.
    """
    if not path.is_dir():
        return is_nifti_name(path.name)
    names = [file.name for file in slice_files.files_in(path)]
    nifti = any(map(is_nifti_name, names))
    if nifti and any(name.lower().endswith(slice_files.SUFFIXES) for name in names):
        raise ValueError(
            f"{path} has NIfTI files and PNG or TIFF files; name a folder with one kind."
        )
    return nifti


def _case_options(args: Args) -> CaseOptions:
    own = args.options
    _refuse(
        {"--channel-order": own.channel_order, "--min-pixels": own.min_pixels or None},
        f"of PNG and TIFF slices, {args.input} has NIfTI files",
    )
    return CaseOptions(
        own.overwrite,
        own.pictures,
        own.probabilities,
        args.min_component or 0.0,
        own.threshold,
    )


def _check(args: Args) -> None:
    """Nothing that was asked for may be without an effect."""
    if not args.models:
        raise ValueError("no model: name a run's folder, or a packed file.")
    if args.input is None and args.save is None and not args.time:
        raise ValueError("nothing to do: give --input, --save, or both; or --time.")
    own = args.options
    of_cases = {f"--{name}": value for name, value in given(args.files).items()}
    of_cases["--min-component"] = args.min_component
    if args.input is None:
        _refuse(
            {
                "--out": args.out,
                "--threshold": own.threshold,
                "--channel-order": own.channel_order,
                "--min-pixels": own.min_pixels or None,
                "--probabilities": own.probabilities,
                "--pictures": own.pictures,
                **of_cases,
                "--mirror": args.mirror and not args.time,
            },
            "nothing is segmented; give --input, too",
        )
    elif not _is_nifti(args.input):
        _refuse(of_cases, f"of NIfTI cases, {args.input} has none")
    files = [path for path in args.models if not path.expanduser().is_dir()]
    if files:
        of_runs = {"--save": args.save, "--recipe": args.recipe, "--rest": args.rest}
        of_runs |= {"--static": args.static}
        _refuse({**of_runs, "--folds": args.folds}, f"for runs, but {files[0]} is no folder")
    elif args.rest and not args.save:
        raise ValueError("--rest says how --save stores a model; give --save, too.")
    if args.save and args.decode:
        raise ValueError("--decode: for packed files, and --save writes one; name the file later.")
    if args.save and (args.folds or len(args.models) > 1):
        raise ValueError("--save packs one run; name one, without --folds.")


def _refuse(options: dict, why: str) -> None:
    """Raises ValueError if any of these options was given."""
    given = [name for name, value in options.items() if value is not None and value is not False]
    if given:
        raise ValueError(f"{', '.join(given)}: {why}.")


def _network(args: Args) -> Network:
    if args.save is None:
        network = network_of(
            args.models,
            recipe=args.recipe,
            folds=args.folds,
            mirror=args.mirror,
            static=args.static,
            decode=args.decode,
        )
        if len(args.models) == 1 and not args.models[0].expanduser().is_dir():
            print(packed.size(predict.load_packed(args.models[0])))
        return network
    (run,), rest = args.models, args.rest or "bfloat16"
    model, about = predict.packed_run(run, recipe=args.recipe, rest_dtype=rest, static=args.static)
    network = predict.from_module(model, about)
    if args.save.exists() and not args.options.overwrite:
        # Of a command that was interrupted and is repeated.
        if not _is_of(args.save, network):
            raise ValueError(f"{args.save} exists; name another file, or pass --overwrite.")
    else:
        predict.save_packed(args.save, model, about)
    scales = predict.scales_of_x(run, model, recipe=args.recipe)
    print(f"{args.save}: {packed.size(model)}; {scales}")
    return predict.with_mirroring(network) if args.mirror else network


def _is_of(path: Path, network: predict.Network) -> bool:
    """Whether a file holds a network; any other file does not."""
    try:
        return predict.from_file(path).identity == network.identity
    except (ValueError, OSError):
        return False


VERB = Verb(command, Args, __doc__)
