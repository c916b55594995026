"""dot_general with a recipe: three quantized GEMMs, and the tangent of the first.

Notation, for each batch entry: X (m, k) left operand, W (k, n) right operand, G (m, n) the
gradient of the loss with respect to X W. Several contracted (or free) dimensions are flattened
row-major, contracted ones in the order of dimension_numbers. Batch dimensions are flattened too;
blocks never cross them, and amax spans the whole operand.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fp4jax.core import sharding
from fp4jax.core.seeds import AxisName
from fp4jax.core.two_modes import two_modes
from fp4jax.core.typing import Array, ArrayLike, DTypeLike, Shaped
from fp4jax.ops import gemm
from fp4jax.ops.amaxes import Amaxes, amaxes, has_switches
from fp4jax.ops.gemm import BlockAxes, Operand
from fp4jax.ops.hooks import settled
from fp4jax.ops.over_positions import over_positions
from fp4jax.ops.recipe import Recipe, get_recipe
from fp4jax.ops.role_keys import RoleKeys, role_keys

# Tiles of W are (n, k) whichever axis is contracted: fprop and dgrad see the same codes.
X_FPROP = BlockAxes(contracted=-1, tile=(-2, -1), rows=(-3, -2))
X_WGRAD = BlockAxes(contracted=-2, tile=(-2, -1), rows=(-3, -1))
G_DGRAD = BlockAxes(contracted=-1, tile=(-2, -1), rows=(-3, -2))
G_WGRAD = BlockAxes(contracted=-2, tile=(-2, -1), rows=(-3, -1))
W_FPROP = BlockAxes(contracted=-2, tile=(-1, -2), rows=(-3, -1))
W_DGRAD = BlockAxes(contracted=-1, tile=(-1, -2), rows=(-3, -2))


def dot_general(
    lhs: Shaped[ArrayLike, "..."],
    rhs: Shaped[ArrayLike, "..."],
    dimension_numbers: Any,
    precision: Any = None,
    preferred_element_type: DTypeLike | None = None,
    *,
    out_sharding: Any = None,
    recipe: str | int | Recipe,
    key: Array | RoleKeys | None = None,
    amax: Mapping[str, Any] | None = None,
    axis_name: AxisName = None,
    switches: Mapping[str, Any] | None = None,
) -> Shaped[Array, "..."]:
    """``jax.lax.dot_general`` whose forward and backward products are quantized by a recipe.

    lhs takes the role of x, rhs that of w. Equivalent to, for the recipe "full":

        y  = Q(x; k) Q(w; k)        fprop, blocks along the contracted dimensions
        dx = Q(g; n) Q(w; n)^T      dgrad, blocks along rhs's free dimensions
        dw = Q(x; m)^T Q(g; m)      wgrad, blocks along lhs's free dimensions

    with Q quantizing and dequantizing as the recipe's TensorSpec for this operand says.

    Args:
        lhs, rhs, dimension_numbers, precision, preferred_element_type, out_sharding: as for
            ``jax.lax.dot_general``. Sums are taken in float32 whatever the result's dtype.
        recipe: a Recipe, its name, or the paper's id.
        key: ``jax.random`` key, needed if the recipe is stochastic; a new one for every step and
            layer. The six operands draw independent bits from it.
        amax: one number for each operand whose spec has ``amax="static"``, by its role ("fprop.x",
            "fprop.w", "dgrad.g", "dgrad.w", "wgrad.x", "wgrad.g"); of the rotated operand, if it
            is one. It has no gradient, unless it is learned (``amax="learned"``, which takes the
            tensor's own where none is given). That of "fprop.x" may be a function
            ``(x, spec, axes) -> number`` of the operand as it is quantized.
        switches: bools by role, arrays too: an operand whose switch is off enters in high
            precision, in the same compiled program; an operand without one is quantized.
        axis_name: of one or several mapped axes (``jax.vmap``, ``jax.shard_map``): operands with
            ``amax="tensor"`` have that of all shards, as of the whole array, and shards that hold
            one key draw bits of their own.

    Returns:
        What ``jax.lax.dot_general`` returns: same shape, dtype and sharding. Gradients have their
        primals' dtypes and shardings.

        Forward mode (``jax.jvp``, ``jax.jacfwd``, ``jax.linearize``) passes straight through the
        rounding, ``dy = dx Q(w) + Q(x) dw`` with fprop's operands; nothing else is quantized. So
        ``jax.grad`` is its transpose for recipes with ``residuals="quantized"`` that quantize
        nothing but fprop ("chain_rule"), and for others not: what is transposed is the linear
        function of ``jax.linearize``, by dgrad and wgrad. Gradients of gradients, and
        ``jax.hessian``, pass straight through the rounding of all of them.

        What is a tensor decides amax, and where wgrad's blocks lie: under ``shard_map`` it is each
        shard (whose random bits differ from the others'), under ``vmap`` each example. So a layer
        that is written for one example and mapped over a batch, as Equinox's are, quantizes x by an
        amax per example, and its weight gradient is a sum of products of single examples; a batch
        that enters as one array is one tensor.

    Raises:
        ValueError: for dtypes that cannot be quantized, a missing key, a missing or unused amax,
            or ``amax="example"`` where lhs's leading dimension is contracted.

    With ``amax="example"`` each place of lhs's (for g, of the result's) leading dimension has a
    tensor scale of its own, with "row" each row of the GEMM: of x for each of lhs's free (and
    batch) dimensions, of w for each of rhs's. They multiply the accumulator.

    Example:
        >>> import jax.numpy as jnp
        >>> x, w = jnp.ones((4, 32)), jnp.ones((32, 8))
        >>> dot_general(x, w, (((1,), (0,)), ((), ())), recipe="full").shape
        (4, 8)
    """
    recipe = get_recipe(recipe)
    lhs, rhs = gemm.checked("dot_general", lhs, rhs, recipe, key)
    given = amaxes("dot_general", recipe, amax, axis_name, switches)
    product = functools.partial(
        lax.dot_general,
        dimension_numbers=dimension_numbers,
        precision=precision,
        preferred_element_type=preferred_element_type,
        out_sharding=out_sharding,
    )
    if not recipe.quantizes:
        return _high_precision(product, lhs, rhs, dimension_numbers)
    keys = role_keys(key, lhs, rhs, axis_name=axis_name) if recipe.stochastic else None
    if keys is not None and recipe.stochastic_forward:
        keys = keys.of_data(lhs)
    lhs, rhs = sharding.varying_together(lhs, rhs, *jax.tree.leaves(keys))
    out = jax.eval_shape(product, lhs, rhs)
    plan = DotPlan.make(lhs.shape, rhs.shape, dimension_numbers, recipe, precision, out)
    lhs, given = settled(plan, lhs, given)
    return _jitted(plan, lhs, rhs, keys, given)


def fprop_operand(
    role: str, recipe: Recipe, lhs: Array, rhs: Array, dimension_numbers: Any
) -> tuple[Array, Any, BlockAxes]:
    """An operand as fprop quantizes it, its spec, and where its blocks lie.

    Args:
        role: "fprop.x" for lhs, "fprop.w" for rhs.
        recipe, lhs, rhs, dimension_numbers: of the product.
    """
    out = jax.eval_shape(lambda a, b: lax.dot_general(a, b, dimension_numbers), lhs, rhs)
    plan = DotPlan.make(lhs.shape, rhs.shape, dimension_numbers, recipe, None, out)
    if role == "fprop.x":
        x, axes = plan.fprop_x(lhs)
        return x, recipe.fprop[0], axes
    return plan.w(rhs), recipe.fprop[1], W_FPROP


def _high_precision(product, lhs: Array, rhs: Array, dimension_numbers: Any) -> Array:
    """``product(lhs, rhs)``; several leading free dimensions of lhs enter as one.

    With several, the gradient of rhs makes XLA:CPU transpose all of g, which takes longer than
    the product itself. Elsewhere it makes no difference: rows are what quantized operands are, too.
    """
    (contracted, rhs_contracted), (batch, _) = dimension_numbers
    free = lhs.ndim - len(contracted)
    plain = not batch and sorted(contracted) == list(range(free, lhs.ndim))
    if free < 2 or not plain or sharding.explicit_mesh():
        return product(lhs, rhs)
    # lax checks the arguments as the caller gave them.
    out = jax.eval_shape(product, lhs, rhs)
    rows = lhs.reshape(math.prod(lhs.shape[:free]), *lhs.shape[free:])
    dims = ((tuple(d - free + 1 for d in contracted), rhs_contracted), ((), ()))
    return product(rows, rhs, dimension_numbers=dims).reshape(out.shape)


@dataclasses.dataclass(frozen=True)
class DotPlan:
    """All that is static: how to flatten the operands, and how to quantize them."""

    recipe: Recipe
    precision: Any
    out_dtype: Any
    out_sharding: Any
    out_shape: tuple[int, ...]
    lhs_shape: tuple[int, ...]
    rhs_shape: tuple[int, ...]
    # dimensions of lhs in the order batch, free, contracted; of rhs: batch, contracted, free
    lhs_order: tuple[int, ...]
    rhs_order: tuple[int, ...]
    sizes: tuple[int, int, int]
    # (b,), or () if there are no batch dimensions
    batch: tuple[int, ...]
    # where the leading dimensions of lhs and of the result lie, see BlockAxes
    x_examples: tuple[int, int, int] | None
    g_examples: tuple[int, int, int] | None

    @staticmethod
    def make(lhs_shape, rhs_shape, dimension_numbers, recipe, precision, out) -> "DotPlan":
        (lhs_contract, rhs_contract), (lhs_batch, rhs_batch) = (
            tuple(tuple(int(d) for d in dims) for dims in both) for both in dimension_numbers
        )
        lhs_free = tuple(d for d in range(len(lhs_shape)) if d not in lhs_contract + lhs_batch)
        rhs_free = tuple(d for d in range(len(rhs_shape)) if d not in rhs_contract + rhs_batch)
        size = lambda shape, dims: math.prod(shape[d] for d in dims)  # noqa: E731
        batch_size, m = size(lhs_shape, lhs_batch), size(lhs_shape, lhs_free)

        def examples(n: int, axis: int) -> tuple[int, int, int]:
            return axis, n, (batch_size if axis == -3 else m) // max(n, 1)

        x_examples = g_examples = None
        if 0 in (*lhs_batch[:1], *lhs_free):
            x_examples = examples(lhs_shape[0], -3 if 0 in lhs_batch else -2)
        if lhs_batch or lhs_free:
            g_examples = examples(out.shape[0], -3 if lhs_batch else -2)
        return DotPlan(
            recipe=recipe,
            precision=tuple(precision) if isinstance(precision, list) else precision,
            out_dtype=out.dtype,
            out_sharding=out.sharding if sharding.explicit_mesh() else None,
            out_shape=out.shape,
            lhs_shape=lhs_shape,
            rhs_shape=rhs_shape,
            lhs_order=lhs_batch + lhs_free + lhs_contract,
            rhs_order=rhs_batch + rhs_contract + rhs_free,
            sizes=(
                m,
                size(lhs_shape, lhs_contract),
                size(rhs_shape, rhs_free),
            ),
            batch=(batch_size,) if lhs_batch else (),
            x_examples=x_examples,
            g_examples=g_examples,
        )

    @property
    def shares_w(self) -> bool:
        """Whether fprop leaves its w for dgrad; on explicit meshes it has no sharding to name."""
        return self.recipe.shares_w and self.out_sharding is None

    def x(self, lhs: Array) -> Array:
        m, k, _ = self.sizes
        return lhs.transpose(self.lhs_order).reshape(*self.batch, m, k)

    def w(self, rhs: Array) -> Array:
        _, k, n = self.sizes
        return rhs.transpose(self.rhs_order).reshape(*self.batch, k, n)

    def g(self, out: Array) -> Array:
        m, _, n = self.sizes
        return out.reshape(*self.batch, m, n)

    @property
    def x_fprop(self) -> BlockAxes:
        """Of x in fprop."""
        return X_FPROP._replace(examples=self.x_examples)

    @property
    def g_dgrad(self) -> BlockAxes:
        """Of g in dgrad."""
        return G_DGRAD._replace(examples=self.g_examples)

    @property
    def leading(self) -> int | None:
        """The dimension of lhs with which the leading one of x begins, if there is one."""
        return self.lhs_order[0] if self.x_examples or self.g_examples else None

    def fprop_x(self, lhs: Array) -> tuple[Array, BlockAxes]:
        """x of fprop as it is quantized."""
        return self.x(lhs), self.x_fprop

    def lhs(self, x: Array) -> Array:
        """Undoes :meth:`x`."""
        return _unflatten(x, self.lhs_shape, self.lhs_order)

    def place(self, lhs_axis: int, rhs_axis: int):
        """Where the scales of both operands of :meth:`product` belong in its result."""
        b = len(self.batch)
        return (
            lambda scale: lax.expand_dims(lax.squeeze(scale, (b + lhs_axis,)), (b + 1,)),
            lambda scale: lax.expand_dims(lax.squeeze(scale, (b + rhs_axis,)), (b,)),
        )

    def product(self, lhs_axis: int, rhs_axis: int):
        """A dot of two flattened operands, contracting one of their last two axes each."""
        if not self.batch and lhs_axis == rhs_axis == 0:
            return over_positions
        b = len(self.batch)
        batch = tuple(range(b))
        dims = (((b + lhs_axis,), (b + rhs_axis,)), (batch, batch))
        return functools.partial(lax.dot_general, dimension_numbers=dims)

    def contract(self, lhs: Operand, rhs: Operand, lhs_axis: int, rhs_axis: int, dtype) -> Array:
        """That product of two operands, and their scales."""
        axes = lhs_axis, rhs_axis
        product, place = self.product(*axes), self.place(*axes)
        return gemm.contract(lhs, rhs, product, dtype, self.precision, place)


def _unflatten(flat: Array, shape: tuple[int, ...], order: tuple[int, ...]) -> Array:
    """Undoes ``x.transpose(order).reshape(...)``."""
    ordered = flat.reshape([shape[d] for d in order])
    return ordered.transpose(sorted(range(len(order)), key=order.__getitem__))


def _forward(plan: DotPlan, lhs: Array, rhs: Array, keys: RoleKeys | None, amaxes: Amaxes | None):
    shares_w = plan.shares_w and not has_switches(amaxes)

    @jax.named_scope(plan.recipe.scope("fprop"))
    def fprop(lhs, rhs, keys, amaxes):
        x, w = (plan.x(lhs), plan.x_fprop), (plan.w(rhs), W_FPROP)
        x, w = gemm.pair(plan.recipe, "fprop", x, w, keys, amaxes)
        y = plan.contract(x, w, 1, 0, plan.out_dtype)
        return y.reshape(plan.out_shape), w if shares_w else None

    out_sharding = None if plan.out_sharding is None else (plan.out_sharding, None)
    y, w = sharding.automatic(fprop, out_sharding)(lhs, rhs, keys, amaxes)
    return y, (lhs, rhs, w, (keys, gemm.backward_keys(plan.recipe, keys, y)), amaxes)


def _backward(plan: DotPlan, saved, g):
    lhs, rhs, w, (_, keys), amaxes = saved
    g = gemm.for_quantizers(plan.recipe, g)

    @jax.named_scope(plan.recipe.scope("dgrad"))
    def dgrad(g, rhs, w, keys, amaxes):
        recipe = plan.recipe if w is None else plan.recipe.without_dgrad_w
        if w is None:
            w = gemm.residual(recipe, "fprop.w", plan.w(rhs), W_FPROP, keys, amaxes)
        g, w = (plan.g(g), plan.g_dgrad), (w, W_DGRAD)
        g, w = gemm.pair(recipe, "dgrad", g, w, keys, amaxes)
        dx = plan.contract(g, w, 1, 1, lhs.dtype)
        return plan.lhs(dx)

    @jax.named_scope(plan.recipe.scope("wgrad"))
    def wgrad(g, lhs, keys, amaxes):
        x = gemm.residual(plan.recipe, "fprop.x", plan.x(lhs), plan.x_fprop, keys, amaxes)
        x, g = (x, X_WGRAD), (plan.g(g), G_WGRAD)
        x, g = gemm.pair(plan.recipe, "wgrad", x, g, keys, amaxes)
        dw = plan.contract(x, g, 0, 0, rhs.dtype)
        return _unflatten(dw, plan.rhs_shape, plan.rhs_order)

    dx = sharding.automatic(dgrad, sharding.of(lhs))(g, rhs, w, keys, amaxes)
    dw = sharding.automatic(wgrad, sharding.of(rhs))(g, lhs, keys, amaxes)
    return dx, dw


def _tangent(plan: DotPlan, saved, tangents):
    """dx Q(w) + Q(x) dw, with the operands that fprop multiplied."""
    lhs, rhs, w, (keys, _), amaxes = saved
    dlhs, drhs = tangents

    @jax.named_scope(plan.recipe.scope("fprop"))
    def tangent(lhs, rhs, w, keys, amaxes, dlhs, drhs):
        dx = None if dlhs is None else plan.x(dlhs)
        dw = None if drhs is None else plan.w(drhs)
        x, w = (plan.x(lhs), plan.x_fprop), (plan.w(rhs) if w is None else w, W_FPROP)
        contract = functools.partial(plan.contract, lhs_axis=1, rhs_axis=0, dtype=jnp.float32)
        dy = gemm.tangent(plan.recipe, (x, w), (dx, dw), keys, amaxes, contract)
        return dy.astype(plan.out_dtype).reshape(plan.out_shape)

    of_out = sharding.automatic(tangent, plan.out_sharding)
    return of_out(lhs, rhs, w, keys, amaxes, dlhs, drhs)


# Eager calls are one program each way, too, and traced once; inlined into a surrounding jit.
_dot = two_modes(_forward, _tangent, jax.jit(_backward, static_argnums=0, inline=True))
_jitted = jax.jit(_dot, static_argnums=0, inline=True)
