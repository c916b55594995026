"""What all commands share: typed arguments by tyro, and one line instead of a traceback."""

import contextlib
import dataclasses
import io
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import tyro

from experiments import compilation_cache
from fp4jax.data import Cohort, load
from fp4jax.data.phantom.cache import default_folder
from fp4jax.train import DivergedError


@dataclasses.dataclass(frozen=True)
class Source:
    """Where images come from, beside the name of the cohort."""

    # folder of the data set: kaggle_3m of LGG, the folder of cases of BraTS or the Decathlon
    root: Path | None = None
    # patients of the phantom cohort, and slices of each
    patients: int = 60
    slices: int = 30
    # order of the channels: rgb as stored; ref_bgr as the reference reads them
    channel_order: Literal["rgb", "ref_bgr"] = "rgb"
    # of brats and msd: the region to segment (whole_tumour, tumour_core, enhancing)
    target: str = "whole_tumour"
    # of brats and msd: the channels, in this order; default: all that there are
    modalities: tuple[str, ...] = ()

    def load(self, name: str, image_size: int) -> Cohort:
        """The cohort with that name."""
        options: dict[str, Any] = {"image_size": image_size}
        if name in ("brats", "msd"):
            options |= {"target": self.target, "modalities": self.modalities or None}
        else:
            options["channel_order"] = self.channel_order
        if name == "phantom":
            options |= {"patients": self.patients, "slices": self.slices}
        return load(name, self.root, **options)


@dataclasses.dataclass(frozen=True)
class Images(Source):
    """A cohort by name."""

    # phantom: the embedded synthetic cohort; lgg: the LGG MRI segmentation data set; brats, msd:
    # slices of the NIfTI volumes of BraTS and of the Medical Segmentation Decathlon
    data: Literal["phantom", "lgg", "brats", "msd"] = "phantom"
    # side of the images in pixels
    image_size: int = 256

    def cohort(self) -> Cohort:
        return self.load(self.data, self.image_size)


def main(command: Callable[[Any], None], arguments: type, description: str | None) -> None:
    """Parses the command line and runs ``command``; exit code 2 if what was asked is wrong."""
    compilation_cache.use(default_folder() / "xla")
    try:
        command(_parse(arguments, description))
    except (ValueError, OSError, ModuleNotFoundError) as error:
        _fail(error, 2)
    except DivergedError as error:
        _fail(error, 1)
    except KeyboardInterrupt:
        _fail("interrupted; repeat the command to go on.", 130)


def _parse(arguments: type, description: str | None) -> Any:
    """tyro frames what it refuses in a box of many lines; here it is one."""
    refused = io.StringIO()
    try:
        with contextlib.redirect_stderr(refused):
            return tyro.cli(arguments, description=description, config=(tyro.conf.OmitArgPrefixes,))
    except SystemExit as stop:
        if not stop.code:
            raise
        frame = "[╭╮╰╯│─]+|Parsing error|Error parsing run:"
        words = " ".join(re.sub(frame, " ", refused.getvalue()).split())
        raise ValueError(words.split(" For full helptext")[0] + " See --help.") from None


def _fail(error: object, code: int) -> None:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(code)
