"""The best epoch of a run as a packed model."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

from flax import nnx

from fp4jax import nnx as fp4nnx
from fp4jax.core.typing import DTypeLike
from fp4jax.nnx.amax_places import amax_places
from fp4jax.predict.about import About, about_run
from fp4jax.train import read_trained

_LOG = logging.getLogger(__name__)


def packed_run(
    path: str | Path,
    *,
    recipe: str | None = None,
    rest_dtype: DTypeLike | None = None,
    static: bool = False,
) -> tuple[nnx.Module, About]:
    """The model of a run's best epoch, packed, and what it is; of slices or of volumes.

    Args:
        path: the run's folder; of an unfinished run the best epoch so far is taken, which is said.
        recipe: another recipe than the run's: post-training quantization of a baseline run.
        rest_dtype: of the parameters that are not quantized, see :func:`fp4jax.nnx.pack`.
        static: with the static scales that the run was calibrated to.

    Raises:
        ValueError: no run, no parameters, or a recipe that quantizes no weights.
    """
    model, about = run_model(path, recipe=recipe, static=static)
    return pack_run(path, model, about, rest_dtype=rest_dtype), about


def pack_run(
    path: str | Path, model: nnx.Module, about: About, *, rest_dtype: DTypeLike | None = None
) -> nnx.Module:
    """What :func:`run_model` read of a run, packed.

    Raises:
        ValueError: a recipe that quantizes no weights, or whose forward pass is stochastic.
    """
    try:
        return fp4nnx.pack(model, rest_dtype=rest_dtype, verbose=False)
    except ValueError as error:
        raise ValueError(
            f"{path} was run with the recipe {about.recipe!r} and cannot be packed: {error}"
        ) from error


def run_model(
    path: str | Path, *, recipe: str | None = None, static: bool = False, dtype: str | None = None
) -> tuple[nnx.Module, About]:
    """The model of a run's best epoch with its recipe, in evaluation mode, and what it is.

    Args:
        path: the run's folder.
        recipe: another recipe than the run's.
        static: with the static scales that the run was calibrated to.
        dtype: another one of the computation than the run's, which is said; parameters are the
            same.

    Raises:
        ValueError: no run, no parameters, or no static scales.
    """
    run = read_trained(Path(path).expanduser(), static=static)
    if dtype is not None and dtype != run.config.dtype:
        _LOG.warning("%s computes in %s, and is read in %s.", path, run.config.dtype, dtype)
        config: Any = dataclasses.replace(run.config, dtype=dtype)
        run = dataclasses.replace(run, config=config)
    trained = run.model(recipe)
    return trained.network(), about_run(run, trained.config)


#: By which a file gets the static scales of a calibrated run.
PACK_STATIC = "fp4jax predict RUN --static --save FILE"


def scales_of_x(path: str | Path, model: nnx.Module, *, recipe: str | None = None) -> str:
    """In a few words, what scales x has in the packed model of a run, and which it might have.

    Args:
        path: the run's folder.
        model: what :func:`packed_run` returned.
        recipe: another one than the run's, of which there are no static scales.
    """
    if fp4nnx.static_amaxes(model):
        return "static scales of x"
    if not any(True for _ in amax_places(model)):
        return "x is not quantized"
    if recipe is not None:
        return "scales of x from each image"
    if "static" in (read_trained(Path(path).expanduser()).summary or {}):
        return "scales of x from each image; the run has static ones too, --static packs them"
    return "scales of x from each image; the run was not calibrated, so it has no static ones"
