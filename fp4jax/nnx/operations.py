"""What an injection slot holds: a static recipe and, if it is stochastic, a rounding key."""

from typing import Any

from flax import nnx

from fp4jax.core.typing import Array
from fp4jax.nnx.keys import RoundingKey, RoundingSeeds, first_key
from fp4jax.ops.convolution.quantized import conv_general_dilated, conv_transpose
from fp4jax.ops.dot import dot_general
from fp4jax.ops.recipe import Recipe
from fp4jax.ops.role_keys import CallKeys


class Op(nnx.Module):
    """An operation that quantizes by a recipe; equal recipes and keys of equal shape share a trace.

    Args:
        recipe: static.
        path: of its layer, from which its first key is made; see
            :func:`fp4jax.nnx.refresh_keys`.
        stack: leading dimensions of a stack of layers; each has its own key.
    """

    def __init__(self, recipe: Recipe, path: str, stack: tuple[int, ...] = ()):
        self.recipe = recipe
        key, seeds = first_key(path, stack) if recipe.stochastic else (None, None)
        self.key = None if key is None else RoundingKey(key)
        self.seeds = None if seeds is None else RoundingSeeds(seeds)

    def options(self) -> dict[str, Any]:
        """What the quantized functions take beyond lax's arguments."""
        keys = None
        if self.key is not None and self.seeds is not None:
            keys = CallKeys(self.key.get_value(), self.seeds.get_value())
        return {"recipe": self.recipe, "key": keys}


class DotGeneral(Op):
    """``fp4jax.dot_general`` for a ``dot_general`` slot."""

    def __call__(self, lhs: Array, *args: Any, **kwargs: Any) -> Array:
        return dot_general(lhs, *args, **kwargs, **self.options())


class ConvGeneralDilated(Op):
    """``fp4jax.conv_general_dilated`` for a ``conv_general_dilated`` slot."""

    def __call__(self, lhs: Array, *args: Any, **kwargs: Any) -> Array:
        return conv_general_dilated(lhs, *args, **kwargs, **self.options())


class ConvTransposeOp(Op):
    """``fp4jax.conv_transpose`` for the slot of :class:`fp4jax.nnx.ConvTranspose`."""

    def __call__(self, lhs: Array, *args: Any, **kwargs: Any) -> Array:
        return conv_transpose(lhs, *args, **kwargs, **self.options())
