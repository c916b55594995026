"""Operands whose amax may be static: x of each layer, and q, k, P and v of attention."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from flax import nnx

from fp4jax.core.spec import TensorSpec
from fp4jax.nnx.keys import check_model, dotted
from fp4jax.nnx.operations import AttentionOp, Op
from fp4jax.ops.attention_given import FORWARD_ROLES
from fp4jax.ops.recipe import Recipe

#: What ends the path of an attention, see attention_slots.
ATTENTION = "attention"


@dataclasses.dataclass(frozen=True, eq=False)
class AmaxPlace:
    """One of them, in its model.

    Attributes:
        path: dotted, of the layer; of an operand of attention "encoder.attn.attention.q" and the
            like.
        operation: that quantizes it.
        operand: "x" of a layer; "q", "k", "p" (P) or "v".
    """

    path: str
    operation: Op
    operand: str = "x"

    @property
    def spec(self) -> TensorSpec:
        """How it is quantized."""
        spec = self.operation.forward_specs()[self.operand]
        assert spec is not None  # amax_places leaves others out
        return spec

    @property
    def stack(self) -> tuple[int, ...]:
        """Leading dimensions of a stack of layers."""
        return self.operation.stack

    @property
    def amax(self) -> nnx.Variable | None:
        """The variable with its static or learned amax, if it has one."""
        return self.operation.amax_of(self.operand)

    @property
    def watch(self) -> Any:
        """The module that sees it in every call, if there is one."""
        return self.operation.watch_of(self.operand)

    def set(self, recipe: Any, amax: nnx.Variable, watch: nnx.Module | None) -> None:
        """Gives the operation another recipe, and this operand an amax and a watch."""
        self.operation.recipe = recipe
        self.operation.set_amax(self.operand, amax, watch)


def places_of(operation: Op, path: str = "") -> Iterator[AmaxPlace]:
    """Those of one operation, whose path in the model ends with its slot's name."""
    attends = isinstance(operation, AttentionOp)
    base = f"{path}.{ATTENTION}" if path else ATTENTION
    for operand, spec in operation.forward_specs().items():
        if spec is not None and spec.has_tensor_scale:
            yield AmaxPlace(f"{base}.{operand}" if attends else path, operation, operand)


def amax_places(model: nnx.Module) -> Iterator[AmaxPlace]:
    """All of a model whose spec has a tensor scale.

    In high precision there is none, nor in formats with scales of blocks alone.

    Example:
        >>> from fp4jax.nnx import apply_recipe
        >>> model = nnx.MultiHeadAttention(2, 8, decode=False, rngs=nnx.Rngs(0))
        >>> model = apply_recipe(model, {"out": "full", ".*attention": "attention_qat", ".*": None})
        >>> [place.path for place in amax_places(model)]
        ['attention.q', 'attention.k', 'attention.p', 'attention.v', 'out']
    """
    check_model(model)
    for path, module in list(nnx.iter_modules(model)):
        if isinstance(module, Op):
            yield from places_of(module, dotted(path[:-1]))


def with_static(recipe: Any, operand: str) -> Any:
    """A recipe whose operand takes a given amax, under the name "NAME+static".

    Where it has no tensor scale, or its amax is static already, the recipe as it is. Of a learned
    amax the place is that of a static one.

    Args:
        recipe: a Recipe and "x", or an AttentionRecipe and "q", "k", "p" or "v".

    Example:
        >>> from fp4jax.ops.attention_recipe import get_attention_recipe
        >>> recipe = with_static(get_attention_recipe("attention_qat"), "p")
        >>> recipe.name, recipe.given
        ('attention_qat+static', {'pv.fprop.x': 'static'})
    """
    if isinstance(recipe, Recipe):
        return _with_static(recipe, 0)
    product, _, role = FORWARD_ROLES[operand].partition(".")
    old = getattr(recipe, product)
    new = _with_static(old, 0 if role == "fprop.x" else 1)
    if new is old:
        return recipe
    name = recipe.name if recipe.name.endswith(_SUFFIX) else recipe.name + _SUFFIX
    return dataclasses.replace(recipe, name=name, **{product: new})


_SUFFIX = "+static"


def _with_static(recipe: Recipe, i: int) -> Recipe:
    """With operand i of fprop static."""
    fprop = list(recipe.fprop)
    spec = fprop[i]
    if spec is None or spec.amax == "static" or not spec.has_tensor_scale:
        return recipe
    # A share of an amax that is given is an amax that is given.
    fprop[i] = dataclasses.replace(spec, amax="static", clip=1.0)
    name = recipe.name if recipe.name.endswith(_SUFFIX) else recipe.name + _SUFFIX
    return dataclasses.replace(recipe, name=name, fprop=tuple(fprop))
