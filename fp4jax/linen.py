"""Flax Linen: quantized operations for ``dot_general_cls`` and ``conv_general_dilated_cls``.

Both slots take a class, or what makes a module when it is called without arguments: fill in the
recipe by ``functools.partial``, as below, and give ``apply`` the RNG stream "rounding".

Example:
    >>> import functools, jax, jax.numpy as jnp
    >>> from flax import linen
    >>> dot = functools.partial(DotGeneral, recipe="2d+rht+sr")
    >>> layer = linen.Dense(8, dot_general_cls=dot)
    >>> keys = {"params": jax.random.key(0), "rounding": jax.random.key(1)}
    >>> variables = layer.init(keys, jnp.ones((2, 16)))
    >>> layer.apply(variables, jnp.ones((2, 16)), rngs={"rounding": jax.random.key(2)}).shape
    (2, 8)
"""

from collections.abc import Mapping
from typing import Any

from flax import linen

from fp4jax.core.seeds import AxisName
from fp4jax.core.typing import Array
from fp4jax.ops.convolution.quantized import conv_general_dilated
from fp4jax.ops.dot import dot_general
from fp4jax.ops.recipe import Recipe, get_recipe


class _Op(linen.Module):
    """A recipe, and the key drawn from the RNG stream "rounding" if it is stochastic.

    ``amax`` and ``axis_name`` are those of :func:`fp4jax.dot_general`.
    """

    recipe: str | int | Recipe
    amax: Mapping[str, Any] | None = None
    axis_name: AxisName = None

    def _options(self) -> dict[str, Any]:
        recipe = get_recipe(self.recipe)
        key = self.make_rng("rounding") if recipe.stochastic else None
        return {"recipe": recipe, "key": key, "amax": self.amax, "axis_name": self.axis_name}


class DotGeneral(_Op):
    """``fp4jax.dot_general`` as a Linen module."""

    def __call__(self, *args, **kwargs) -> Array:
        return dot_general(*args, **kwargs, **self._options())


class ConvGeneralDilated(_Op):
    """``fp4jax.conv_general_dilated`` as a Linen module."""

    def __call__(self, *args, **kwargs) -> Array:
        return conv_general_dilated(*args, **kwargs, **self._options())
