"""The network of a run, of a configuration, or of a packed file, before what a target makes of it.

Shapes alone: a run need not have begun, and no weights are made.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from fp4jax.deploy.subject import image_shape
from fp4jax.predict.about import about_model
from fp4jax.predict.packed_files import describe, load_packed
from fp4jax.train import RunConfig, RunFolder
from fp4jax.train.program import build
from fp4jax.train.records import from_json


@dataclasses.dataclass(frozen=True, eq=False)
class Planned:
    """A network and what it is called with.

    Attributes:
        name: of the run, the file, or the configuration.
        model: with its recipes applied; shapes alone, but of a packed file.
        example: one image.
        recipe: that it has, None of a packed file.
        keep: patterns of the layers that stay in high precision.
    """

    name: str
    model: nnx.Module
    example: jax.ShapeDtypeStruct
    recipe: Any = None
    keep: tuple[str, ...] = ()


def planned(what: str | Path | RunConfig) -> Planned:
    """The network of a run's folder, a packed file, or a configuration.

    Layers have static scales of x where the run was, or will be, calibrated. A configuration is
    taken to have the channels and regions that are usual for its task.

    Raises:
        ValueError: no run and no packed file, or options that do not fit.
        OSError: it cannot be read.

    Example:
        >>> from fp4jax.train import Slices
        >>> small = {"stages": 2, "channels": 16}
        >>> found = planned(RunConfig(Slices(image_size=32), arch="cnn", model_options=small))
        >>> found.name, found.example.shape
        ('cnn 500k baseline', (1, 32, 32, 3))
    """
    if isinstance(what, RunConfig):
        name = f"{what.arch} {what.scale} {what.recipe_name}"
        return _of_config(name, what, *what.data.assumed())
    path = Path(what).expanduser()
    if not path.exists():
        raise ValueError(
            f"there is no {path}; name a run's folder, a packed file, or give the options of a run."
        )
    if not path.is_dir():
        about = describe(path)
        return Planned(path.name, load_packed(path, about), _example(image_shape(about)))
    record = RunFolder(path).config()
    if record is None:
        raise ValueError(
            f"{path} holds no run; name a folder with a config.json, a packed file, or give the "
            "options of a run."
        )
    config = from_json(record)
    assumed = config.data.assumed()
    names = (tuple(record.get(key, usual)) for key, usual in zip(_NAMES, assumed, strict=True))
    return _of_config(path.name, config, *names)


_NAMES = ("channels", "regions")


def _of_config(
    name: str, config: RunConfig, channels: tuple[str, ...], regions: tuple[str, ...]
) -> Planned:
    config = config.resolved()
    # Static scales are those of an ending run; those that follow the steps are there already.
    static = config.calibrate is not None
    sizes = len(channels), len(regions)
    model: Any = nnx.eval_shape(lambda: build(config, *sizes, 0, static=static))
    model.eval()
    about = about_model(config, channels, regions)
    keep = model.high_precision if config.keep is None else config.keep
    return Planned(name, model, _example(image_shape(about)), config.recipe, tuple(keep))


def _example(image: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, *image), jnp.float32)
