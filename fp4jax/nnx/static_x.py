"""Layers whose x has a static amax: their recipes, and amaxes that are set and read by path."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer

from fp4jax.core.spec import TensorSpec
from fp4jax.core.typing import Array, Float
from fp4jax.nnx.amax_variables import CalibratedAmax
from fp4jax.nnx.keys import Model, check_model, dotted
from fp4jax.nnx.operations import Op
from fp4jax.ops.recipe import Recipe

_SUFFIX = "+static"


def with_static_x(recipe: Recipe) -> Recipe:
    """A recipe that quantizes x of fprop by a given amax, under the name "NAME+static".

    Where x has no tensor scale, or its amax is static already, the recipe as it is.

    Example:
        >>> from fp4jax.ops.recipe import get_recipe
        >>> recipe = with_static_x(get_recipe("full"))
        >>> recipe.name, recipe.fprop[0].amax, recipe.fprop[1].amax
        ('full+static', 'static', 'tensor')
    """
    x, w = recipe.fprop
    if x is None or x.amax == "static" or not x.has_tensor_scale:
        return recipe
    # A share of an amax that is given is an amax that is given.
    static = dataclasses.replace(x, amax="static", clip=1.0)
    return dataclasses.replace(recipe, name=recipe.name + _SUFFIX, fprop=(static, w))


def quantizing_x(model: nnx.Module) -> Iterator[tuple[str, Op, TensorSpec]]:
    """(dotted path of the layer, operation, spec of x) where x of fprop has a tensor scale.

    In high precision it has none, nor in formats with scales of blocks alone.

    Example:
        >>> from fp4jax.nnx import apply_recipe
        >>> layer = apply_recipe(nnx.Linear(16, 4, rngs=nnx.Rngs(0)), "full")
        >>> [(path, type(op).__name__) for path, op, _ in quantizing_x(layer)]
        [('', 'DotGeneral')]
    """
    check_model(model)
    for path, module in list(nnx.iter_modules(model)):
        if not isinstance(module, Op):
            continue
        spec = module.spec_of_x
        if spec is not None and spec.has_tensor_scale:
            yield dotted(path[:-1]), module, spec


def set_static(
    operation: Op, amax: Float[Array, "*stack"], watch: nnx.Module | None = None
) -> None:
    """From now on the operation quantizes x by this amax, or by what ``watch`` makes of it."""
    operation.recipe = with_static_x(operation.recipe)
    operation.amax = nnx.data(CalibratedAmax(jnp.asarray(amax, jnp.float32)))
    operation.watch = nnx.data(watch)


def static_amaxes(model: nnx.Module) -> dict[str, Array]:
    """The static or learned amax of x of each layer that has one, by its path.

    Raises:
        ValueError: for anything but an NNX model.

    Example:
        >>> from fp4jax.nnx import apply_recipe, calibrate
        >>> layer = apply_recipe(nnx.Linear(16, 4, rngs=nnx.Rngs(0)), "full")
        >>> static_amaxes(layer)
        {}
        >>> static_amaxes(calibrate(layer, [jnp.full((2, 16), 3.0)]))
        {'': Array(3., dtype=float32)}
    """
    return {path: op.amax.get_value() for path, op, _ in quantizing_x(model) if op.amax is not None}


def set_static_amaxes(model: Model, amaxes: Mapping[str, Any]) -> Model:
    """Gives x of layers the static amaxes that another model was calibrated to.

    Args:
        model: with a recipe applied; changed in place.
        amaxes: number, or an array for a stack of layers, by the layer's path, as
            :func:`static_amaxes` returns them.

    Returns:
        The model.

    Raises:
        ValueError: paths of no layer that quantizes x, an array of another shape than its stack,
            or a number that is negative, NaN or Inf.

    Example:
        >>> from fp4jax.nnx import apply_recipe
        >>> layer = apply_recipe(nnx.Linear(16, 4, rngs=nnx.Rngs(0)), "full")
        >>> set_static_amaxes(layer, {"": 3.0}).dot_general.recipe.name
        'full+static'
    """
    found = {path: op for path, op, _ in quantizing_x(model)}
    if unknown := sorted(set(amaxes) - set(found)):
        raise ValueError(
            f"amaxes are given for {', '.join(unknown)}, which quantize no x in this model; its "
            f"layers that do are: {', '.join(found)}."
        )
    arrays = {path: jnp.asarray(amax, jnp.float32) for path, amax in amaxes.items()}
    for path, amax in arrays.items():
        if amax.shape != found[path].stack:
            raise ValueError(
                f"the amax of {path or '(model)'} has shape {amax.shape}, its stack of layers has "
                f"{found[path].stack}."
            )
        given = amaxes[path]
        # NumPy's arithmetic: under jit jax.numpy's would be traced.
        if not isinstance(given, Tracer) and not np.all(
            np.isfinite(given) & (np.array(given) >= 0)
        ):
            raise ValueError(
                f"the amax of {path or '(model)'} is {given}; give non-negative, finite numbers."
            )
    for path, amax in arrays.items():
        set_static(found[path], amax)
    return model


def expect_static(model: Model) -> Model:
    """Makes a place, 0, for a static amax of x in every layer that quantizes it by its own.

    For models whose amaxes are then restored, as ``nnx.eval_shape`` makes one to read a checkpoint.

    Returns:
        The model, changed in place.

    Example:
        >>> from fp4jax.nnx import apply_recipe
        >>> layer = apply_recipe(nnx.Linear(16, 4, rngs=nnx.Rngs(0)), "full")
        >>> float(expect_static(layer).dot_general.amax[...])
        0.0
    """
    for _, op, spec in quantizing_x(model):
        if not spec.given or op.amax is None:
            set_static(op, jnp.zeros(op.stack))
    return model
