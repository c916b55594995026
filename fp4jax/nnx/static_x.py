"""Layers whose x has a static amax: their recipes, and how an operation gets its amax."""

import dataclasses
from collections.abc import Iterator

import jax.numpy as jnp
from flax import nnx

from fp4jax.core.spec import TensorSpec
from fp4jax.core.typing import Array, Float
from fp4jax.nnx.amax_variables import CalibratedAmax
from fp4jax.nnx.keys import check_model, dotted
from fp4jax.nnx.operations import Op
from fp4jax.ops.recipe import Recipe

_SUFFIX = "+static"


def with_static_x(recipe: Recipe) -> Recipe:
    """A recipe that quantizes x of fprop by a given amax, under the name "NAME+static".

    Where x is not quantized, or its amax is static already, the recipe as it is.

    Example:
        >>> from fp4jax.ops.recipe import get_recipe
        >>> recipe = with_static_x(get_recipe("full"))
        >>> recipe.name, recipe.fprop[0].amax, recipe.fprop[1].amax
        ('full+static', 'static', 'tensor')
    """
    x, w = recipe.fprop
    if x is None or x.amax == "static":
        return recipe
    # A share of an amax that is given is an amax that is given.
    static = dataclasses.replace(x, amax="static", clip=1.0)
    return dataclasses.replace(recipe, name=recipe.name + _SUFFIX, fprop=(static, w))


def quantizing_x(model: nnx.Module) -> Iterator[tuple[str, Op, TensorSpec]]:
    """(dotted path of the layer, operation, spec of x) where x of fprop is quantized.

    Example:
        >>> from fp4jax.nnx import apply_recipe
        >>> layer = apply_recipe(nnx.Linear(16, 4, rngs=nnx.Rngs(0)), "full")
        >>> [(path, type(op).__name__) for path, op, _ in quantizing_x(layer)]
        [('', 'DotGeneral')]
    """
    check_model(model)
    for path, module in list(nnx.iter_modules(model)):
        if isinstance(module, Op) and (spec := module.recipe.fprop[0]) is not None:
            yield dotted(path[:-1]), module, spec


def set_static(
    operation: Op, amax: Float[Array, "*stack"], watch: nnx.Module | None = None
) -> None:
    """From now on the operation quantizes x by this amax, or by what ``watch`` makes of it."""
    operation.recipe = with_static_x(operation.recipe)
    operation.amax = nnx.data(CalibratedAmax(jnp.asarray(amax, jnp.float32)))
    operation.watch = nnx.data(watch)
