"""Look at a cohort: its fingerprint, whether it is complete, its split, a picture.

    fp4jax data --data lgg --root kaggle_3m --verify
    fp4jax data --data images --root patients --split --picture overview.png
    fp4jax data --nifti brains --patients 12 --slices 32 --image-size 64

Prints what is there as JSON: patients, scans, slices, lesions, grey levels. A picture shows
patients, and may not be passed on freely.
"""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import tyro

from fp4jax import data
from fp4jax.cli.command import Verb
from fp4jax.cli.options import SliceOptions
from fp4jax.data import phantom
from fp4jax.files import read_json, write_json
from fp4jax.train import Source


@dataclasses.dataclass(frozen=True)
class Args:
    images: Annotated[SliceOptions, tyro.conf.arg(name="data")] = dataclasses.field(
        default_factory=SliceOptions
    )
    source: Source = dataclasses.field(default_factory=Source)
    # check that it is the whole LGG data set, or has the fingerprint of --expected
    verify: bool = False
    # a file that --fingerprint wrote: check that nothing differs
    expected: Path | None = None
    # write the whole fingerprint to this new JSON file
    fingerprint: Path | None = None
    # print the patients of the holdout split
    split: bool = False
    # write a picture of some patients to this PNG file
    picture: Path | None = None
    # write phantom patients to this new folder as NIfTI files, laid out like BraTS 2023
    nifti: Path | None = None


def command(args: Args) -> None:
    images = args.images
    if args.nifti:
        phantom.write_nifti(
            args.nifti, images.patients or 60, images.slices or 30, images.image_size
        )
        return
    for path in (args.fingerprint, args.picture):
        if path is not None and path.exists():
            raise ValueError(f"{path} exists; name a new file, or delete it first.")
    cohort = images.open(args.source).cohort
    found = data.fingerprint(cohort)
    print(
        json.dumps(
            {key: value for key, value in found.items() if key != "crc32"},
            indent=2,
            ensure_ascii=False,
        )
    )
    if args.verify or args.expected:
        shape = [images.image_size, images.image_size, len(cohort.channels)]
        known = {**(data.LGG_EXPECTED if images.cohort == "lgg" else {}), "shape": shape}
        expected = read_json(args.expected) if args.expected else known
        if expected is None:
            raise ValueError(f"there is no file {args.expected}; write one with --fingerprint.")
        data.verify(cohort, expected)
        print("verified: nothing differs")
    if args.split:
        print(json.dumps(dataclasses.asdict(data.patient_holdout(cohort)), ensure_ascii=False))
    if args.fingerprint:
        write_json(args.fingerprint, found)
    if args.picture:
        phantom.picture(cohort, args.picture)


VERB = Verb(command, Args, __doc__)
