"""What an injection slot holds: a static recipe and, if it is stochastic, a rounding key."""

from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx

from fp4jax.core.spec import TensorSpec
from fp4jax.core.typing import Array
from fp4jax.nnx.amax_variables import LearnedAmax
from fp4jax.nnx.keys import RoundingKey, RoundingSeeds, first_key
from fp4jax.nnx.watches import FirstAmax
from fp4jax.ops.attention_function import dot_product_attention
from fp4jax.ops.attention_given import FORWARD_ROLES
from fp4jax.ops.attention_recipe import AttentionRecipe
from fp4jax.ops.convolution.quantized import conv_general_dilated, conv_transpose
from fp4jax.ops.dot import dot_general
from fp4jax.ops.einsum import einsum
from fp4jax.ops.role_keys import CallKeys


class Op(nnx.Module):
    """An operation that quantizes by a recipe; equal recipes and keys of equal shape share a trace.

    Args:
        recipe: static; a Recipe, of attention an AttentionRecipe.
        path: of its layer, from which its first key is made; see
            :func:`fp4jax.nnx.refresh_keys`.
        stack: leading dimensions of a stack of layers; each has its own key.

    Attributes:
        amax: the variable with the amax of x, where the recipe has ``amax="static"`` or "learned".
        watch: a module ``(x, spec, axes, amax) -> amax to use`` that sees x of every call as it is
            quantized, or None.
    """

    def __init__(self, recipe: Any, path: str, stack: tuple[int, ...] = ()):
        self.recipe, self.stack = recipe, tuple(stack)
        key, seeds = first_key(path, stack) if recipe.stochastic else (None, None)
        self.key = None if key is None else RoundingKey(key)
        self.seeds = None if seeds is None else RoundingSeeds(seeds)
        x = self.spec_of_x
        learns = x is not None and x.amax == "learned"
        self.amax: nnx.Variable | None = LearnedAmax(jnp.zeros(stack)) if learns else None
        self.watch: nnx.Module | None = FirstAmax(stack) if learns else None

    @staticmethod
    def operands(arguments: tuple[Any, ...]) -> tuple[Any, Any, tuple[Any, ...]]:
        """Both operands of a call, and its further arguments."""
        lhs, rhs, *rest = arguments
        return lhs, rhs, tuple(rest)

    @staticmethod
    def arguments(lhs: Any, rhs: Any, rest: tuple[Any, ...]) -> tuple[Any, ...]:
        """The inverse of :meth:`operands`."""
        return (lhs, rhs, *rest)

    def options(self) -> dict[str, Any]:
        """What the quantized functions take beyond lax's arguments."""
        keys = None
        if self.key is not None and self.seeds is not None:
            keys = CallKeys(self.key.get_value(), self.seeds.get_value())
        options = {"recipe": self.recipe, "key": keys}
        given = {
            self.roles[operand]: self._amax(operand)
            for operand, spec in self.forward_specs().items()
            if spec is not None and spec.given
        }
        return options | ({"amax": given} if given else {})

    @property
    def spec_of_x(self) -> TensorSpec | None:
        """How x of fprop is quantized; None in high precision, and in attention, which has no x."""
        return self.forward_specs().get("x")

    #: The operands whose amax may be given, and their roles.
    roles: ClassVar[dict[str, str]] = {"x": "fprop.x"}

    def forward_specs(self) -> dict[str, TensorSpec | None]:
        """How the operands are quantized whose amax may be given."""
        return {"x": self.recipe.fprop[0]}

    def amax_of(self, operand: str) -> nnx.Variable | None:
        """The variable with an operand's amax."""
        return self.amax

    def watch_of(self, operand: str) -> Any:
        """The module that watches an operand."""
        return self.watch

    def set_amax(self, operand: str, amax: nnx.Variable | None, watch: nnx.Module | None) -> None:
        """Sets both."""
        self.amax, self.watch = nnx.data(amax), nnx.data(watch)

    def _amax(self, operand: str) -> Any:
        """The amax of an operand, or a function of it that tells it.

        Raises:
            ValueError: there is none.
        """
        variable, watch = self.amax_of(operand), self.watch_of(operand)
        amax = None if variable is None else variable.get_value()
        if watch is not None:
            return lambda x, spec, axes: watch(x, spec, axes, amax)
        if amax is None:
            raise ValueError(
                f"a layer has the recipe {self.recipe.name!r} with amax='static' for {operand}, "
                "and no amax: calibrate the model on some batches first, "
                "fp4jax.nnx.calibrate(model, batches)."
            )
        return amax


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


class EinsumOp(Op):
    """``fp4jax.einsum`` for the ``einsum_op`` slot of ``nnx.Einsum``."""

    @staticmethod
    def operands(arguments: tuple[Any, ...]) -> tuple[Any, Any, tuple[Any, ...]]:
        subscripts, lhs, rhs = arguments
        return lhs, rhs, (subscripts,)

    @staticmethod
    def arguments(lhs: Any, rhs: Any, rest: tuple[Any, ...]) -> tuple[Any, ...]:
        return (*rest, lhs, rhs)

    def __call__(self, subscripts: str, lhs: Array, *args: Any, **kwargs: Any) -> Array:
        return einsum(subscripts, lhs, *args, **kwargs, **self.options())


class AttentionOp(Op):
    """``fp4jax.attention`` for an ``attention_fn`` slot, with the arguments that Flax passes."""

    recipe: AttentionRecipe
    roles = FORWARD_ROLES

    def __init__(self, recipe: AttentionRecipe, path: str, stack: tuple[int, ...] = ()):
        super().__init__(recipe, path, stack)
        # By operand, of those that have one.
        self.amaxes, self.watches = nnx.Dict(), nnx.Dict()

    def forward_specs(self) -> dict[str, TensorSpec | None]:
        qk, pv = self.recipe.qk.fprop, self.recipe.pv.fprop
        return dict(zip(self.roles, (*qk, *pv), strict=True))

    def amax_of(self, operand: str) -> nnx.Variable | None:
        return self.amaxes.get(operand)

    def watch_of(self, operand: str) -> Any:
        return self.watches.get(operand)

    def set_amax(self, operand: str, amax: nnx.Variable | None, watch: nnx.Module | None) -> None:
        for held, value in ((self.amaxes, amax), (self.watches, watch)):
            if value is not None:
                held[operand] = value
            elif operand in held:
                del held[operand]

    def __call__(
        self,
        query: Array,
        key: Array,
        value: Array,
        *args: Any,
        switches: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Array:
        options = self.options() | {"switches": switches}
        return dot_product_attention(query, key, value, *args, options=options, **kwargs)
