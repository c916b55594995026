"""Attention whose two products are quantized: two contractions around a softmax.

Notation, for each batch entry and each head of k: q (m, g, d), with the g heads of q that share a
head of k; k (t, d), v (t, e); logits, P and dS (m, g, t).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fp4jax.core import sharding
from fp4jax.core.formats import float_array
from fp4jax.core.quantizer import check_key
from fp4jax.core.seeds import AxisName
from fp4jax.core.two_modes import two_modes
from fp4jax.core.typing import Array, ArrayLike, Shaped
from fp4jax.ops.attention_given import Given, by_product
from fp4jax.ops.attention_recipe import AttentionRecipe, get_attention_recipe
from fp4jax.ops.dot import dot_general, fprop_operand
from fp4jax.ops.recipe import Recipe
from fp4jax.ops.role_keys import RoleKeys, role_keys

# Far below every logit, and finite: a row without any key is uniform, as in jax.nn.
_MASKED = np.float32(-0.7 * np.finfo(np.float32).max)
# P v rounds with other bits than q k^T; a number far from those of calls and shards.
_OTHER_BITS = np.uint32(0x51ED270B)


def attention(
    q: Shaped[ArrayLike, "..."],
    k: Shaped[ArrayLike, "..."],
    v: Shaped[ArrayLike, "..."],
    bias: Shaped[ArrayLike, "..."] | None = None,
    mask: Shaped[ArrayLike, "..."] | None = None,
    *,
    scale: float | None = None,
    is_causal: bool = False,
    dropout: Shaped[ArrayLike, "..."] | None = None,
    precision: Any = None,
    recipe: str | AttentionRecipe,
    key: Array | RoleKeys | None = None,
    amax: Mapping[str, Any] | None = None,
    axis_name: AxisName = None,
    switches: Mapping[str, Any] | None = None,
    product: Callable[..., Any] | None = None,
) -> Shaped[Array, "..."]:
    """Softmax attention whose products q k^T and P v are quantized, forward and backward.

    With Q_qk and Q_pv quantizing an operand as the recipe's ``qk`` and ``pv`` say, the softmax in
    float32 over the keys, and D the factors of dropout (1 without):

        S = scale Q(q) Q(k)^T + bias          fprop of qk, blocks along d
        P = softmax(S)
        o = Q(P D) Q(v)                       fprop of pv, blocks along the keys

    and, for do = dL/do:

        dv = (P D)^T do                       wgrad of pv
        dP = D (do v^T)                       dgrad of pv
        dS = P (dP - rowsum(dP P))
        dq = scale dS k                       dgrad of qk
        dk = scale dS^T q                     wgrad of qk
        dbias = dS, summed where bias was broadcast

    In "attention_qat" (Attn-QAT) the backward pass takes Q(q), Q(k), Q(v) and, in dv, Q(P D), all
    in the codes of the forward pass, and P is the softmax of the forward pass's S; gradients are
    not quantized. So it is the derivative of the forward pass with the rounding taken for the
    identity. The row sums are those of dP P, equal to do . o' with o' = (P D) Q(v) in high
    precision, which a fused kernel accumulates beside o since it never sees a whole row of dP.

    In "attention_naive" the forward pass is the same, and the backward pass is FlashAttention's in
    high precision: P = exp(scale q k^T + bias - L) of the operands as they were, with L the forward
    pass's log-sum-exp, and do . o in place of the row sums. Neither is that of the forward pass.

    Other recipes set the six operands of each product one by one (:class:`AttentionRecipe`), so
    that dS and do enter their products quantized too.

    Args:
        q, k, v: queries (*b, m, h, d), keys (*b, t, k, d) and values (*b, t, k, e): batch, tokens,
            heads and channels; float32, bfloat16 or float16. The h heads of q are a multiple of
            the k of k and v, of which each serves h / k neighbouring ones.
        bias: added to the logits, float32 or q's dtype; broadcast against (*b, h, m, t).
        mask: boolean; a query attends to the keys where it is True. Broadcast likewise.
        scale: of the logits; default 1 / sqrt(d).
        is_causal: whether a query attends to the keys up to its own place alone.
        dropout: factors of P, 0 or 1 / (1 - rate), broadcast likewise; no gradient flows to them.
        precision: of products that are not quantized.
        recipe: an AttentionRecipe, or its name (:func:`fp4jax.attention_recipes`).
        key: a ``jax.random`` key, needed if the recipe is stochastic; a new one for every
            step and layer. All operands of both products draw independent bits from it.
        amax: of operands with ``amax="static"``, by product and role: {"qk.fprop.x": ...,
            "pv.fprop.w": ...}, see :func:`fp4jax.dot_general`. Those of the forward pass may be
            functions ``(operand, spec, axes) -> number``.
        axis_name: as for :func:`fp4jax.dot_general`.
        switches: bools by product and role, likewise: an operand whose switch is off is in high
            precision.
        product: what computes both products in place of :func:`fp4jax.dot_general`, with its
            arguments; the derivative is then that of its operations.

    Returns:
        o (*b, m, h, e), in v's dtype. The backward pass computes the logits, and what is quantized
        of the forward pass, again. Forward mode (``jax.jvp``) is the derivative of the forward pass
        straight through the rounding: that of "attention_qat" in every recipe.

    Raises:
        ValueError: shapes that do not fit, an unknown recipe, a missing key, and what
            :func:`fp4jax.dot_general` raises.

    Source: Attn-QAT, arXiv 2603.00040; cuDNN's documentation of nvfp4_attention_qat_backward. There
    Q scales by blocks of 16 alone, here by block and tensor, as everywhere in fp4jax, and the
    blocks of P and v lie along the keys, as the FP4 product P v needs.

    Example:
        >>> import jax.numpy as jnp
        >>> q = jnp.ones((2, 5, 4, 32))
        >>> k = v = jnp.ones((2, 7, 4, 32))
        >>> attention(q, k, v, recipe="attention_qat").shape
        (2, 5, 4, 32)
    """
    recipe = get_attention_recipe(recipe)
    if recipe.stochastic and key is None:
        raise ValueError(
            f"attention recipe {recipe.name!r} rounds stochastically but key is None; pass "
            "key=jax.random.key(seed), a different one for every step and layer."
        )
    if recipe.stochastic and not isinstance(key, RoleKeys):
        check_key(key)
    q, k, v = (float_array(name, a) for name, a in (("q", q), ("k", k), ("v", v)))
    _check_shapes(q, k, v)
    *batch, m, h, d = q.shape
    t, heads = k.shape[-3:-1]
    shape = (*batch, h, m, t)
    if is_causal:
        causal = np.tril(np.ones((m, t), bool))
        mask = jnp.asarray(causal) if mask is None else jnp.asarray(mask).astype(bool) & causal
    bias = None if bias is None else _grouped("bias", jnp.asarray(bias), shape, heads)
    mask = None if mask is None else _grouped("mask", jnp.asarray(mask).astype(bool), shape, heads)
    factors = None if dropout is None else _grouped("dropout", jnp.asarray(dropout), shape, heads)
    keys = role_keys(key) if recipe.stochastic else None
    if keys is not None:
        keys = RoleKeys(*keys.of_data(q))
    q = q.reshape(*batch, m, heads, h // heads, d)
    plan = Plan(recipe, float(d**-0.5 if scale is None else scale), precision, axis_name, product)
    arrays = _varying_together(q, k, v, bias, mask, factors, others=jax.tree.leaves(keys))
    given = _settled(plan, arrays, keys, by_product(amax, switches, recipe))
    function: Any = _jitted if recipe.quantizes and product is None else _composed
    o = jnp.moveaxis(function(plan, *arrays, keys, given), -4, -3)
    return o.reshape(*batch, m, h, v.shape[-1])


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that is static."""

    recipe: AttentionRecipe
    scale: float
    precision: Any
    axis_name: AxisName
    product: Callable[..., Any] | None = None

    def logits(self, q: Array, k: Array, keys: RoleKeys | None, given: Any) -> Array:
        """q k^T (*b, k, m, g, t) in float32, without scale."""
        with jax.named_scope("qk"):
            return self._product(self.recipe.qk, self.qk(q, k), keys, given["qk"])

    def output(self, p: Array, v: Array, keys: RoleKeys | None, given: Any) -> Array:
        """P v (*b, k, m, g, e) in float32."""
        if keys is not None:
            keys = keys.apart(jnp.uint32(_OTHER_BITS))
        with jax.named_scope("pv"):
            return self._product(self.recipe.pv, self.pv(p, v), keys, given["pv"])

    def qk(self, q: Array, k: Array) -> tuple[Array, Array, Any]:
        """Operands and dimensions of q k^T."""
        b = tuple(range(k.ndim - 3))
        heads = (*b, len(b) + 1)
        return q, k, (((q.ndim - 1,), (k.ndim - 1,)), (heads, heads))

    def pv(self, p: Array, v: Array) -> tuple[Array, Array, Any]:
        """Operands and dimensions of P v."""
        if self.recipe.pv.fprop[0] is None:
            p = p.astype(v.dtype)
        else:
            # P is quantized as the softmax has it, whatever the dtype of v.
            v = v.astype(p.dtype)
        b = tuple(range(v.ndim - 3))
        return p, v, (((p.ndim - 1,), (len(b),)), ((*b, len(b)), (*b, len(b) + 1)))

    def _product(
        self,
        recipe: Recipe,
        operands: tuple[Array, Array, Any],
        keys: RoleKeys | None,
        given: Given,
    ) -> Array:
        # A product of somebody else's knows dot_general's older arguments.
        switches = {} if given.switches is None else {"switches": given.switches}
        return (self.product or dot_general)(
            *operands,
            self.precision,
            jnp.dtype(jnp.float32),
            recipe=recipe,
            key=keys if recipe.stochastic else None,
            amax=given.amax,
            axis_name=self.axis_name if recipe.quantizes else None,
            **switches,
        )


def _settled(plan: Plan, arrays: Any, keys: RoleKeys | None, given: Any) -> Any:
    """Amaxes that are functions of their operands, as numbers."""
    q, k, v, bias, mask, factors = map(jax.lax.stop_gradient, arrays)
    if given["qk"].functions:
        given = {**given, "qk": _measured(plan.recipe.qk, plan.qk(q, k), given["qk"])}
    if given["pv"].functions:
        p = jax.nn.softmax(_scores(plan, plan.logits(q, k, keys, given), bias, mask))
        operands = plan.pv(_times(p, factors), v)
        given = {**given, "pv": _measured(plan.recipe.pv, operands, given["pv"])}
    return given


def _measured(recipe: Recipe, operands: tuple[Array, Array, Any], given: Given) -> Given:
    amax = dict(given.amax or {})
    for role, function in given.functions.items():
        amax[role] = function(*fprop_operand(role, recipe, *operands))
    return given._replace(amax=amax)


def _scores(plan: Plan, product: Array, bias: Array | None, mask: Array | None) -> Array:
    """The logits, from q k^T."""
    z = product * np.float32(plan.scale)
    if bias is not None:
        z = z + bias.astype(jnp.float32)
    return z if mask is None else jnp.where(mask, z, _MASKED)


def _times(p: Array, factors: Array | None) -> Array:
    return p if factors is None else p * factors.astype(p.dtype)


def _composed(plan: Plan, q, k, v, bias, mask, factors, keys, given) -> Array:
    p = jax.nn.softmax(_scores(plan, plan.logits(q, k, keys, given), bias, mask))
    return plan.output(_times(p, factors), v, keys, given).astype(v.dtype)


def _forward(plan: Plan, q, k, v, bias, mask, factors, keys, given):
    z = _scores(plan, plan.logits(q, k, keys, given), bias, mask)
    o = plan.output(_times(jax.nn.softmax(z), factors), v, keys, given)
    norm = jax.nn.logsumexp(z, -1, keepdims=True) if plan.recipe.logits == "original" else None
    kept = o if plan.recipe.row_sums == "output" else None
    return o.astype(v.dtype), (q, k, v, bias, mask, factors, keys, given, norm, kept)


def _backward(plan: Plan, saved, do):
    q, k, v, bias, mask, factors, keys, given, norm, o = saved
    do = do.astype(jnp.float32)
    product, of_logits = jax.vjp(lambda q, k: plan.logits(q, k, keys, given), q, k)
    if plan.recipe.logits == "original":
        p = jnp.exp(_scores(plan, _exact_product(plan, q, k), bias, mask) - norm)
    else:
        p = jax.nn.softmax(_scores(plan, product, bias, mask))
    # The vjp of the product alone: the compiler drops a result that nobody uses.
    _, of_output = jax.vjp(lambda p, v: plan.output(p, v, keys, given), _times(p, factors), v)
    dp, dv = of_output(do)
    dp = _times(dp, factors)
    sums = dp * p if o is None else do * o
    ds = p * (dp - sums.sum(-1, keepdims=True))
    if mask is not None:
        ds = jnp.where(mask, ds, np.float32(0))
    dq, dk = of_logits(ds * np.float32(plan.scale))
    dbias = None if bias is None else _summed_to(ds, bias)
    return dq, dk, dv, dbias


def _tangent(plan: Plan, saved, tangents):
    """Of the forward pass, each product with the tangent of :func:`fp4jax.dot_general`."""
    args, others = saved[:4], saved[4:8]
    moving = [i for i, t in enumerate(tangents) if t is not None]

    def of_moving(*values: Any) -> Array:
        used = list(args)
        for i, value in zip(moving, values, strict=True):
            used[i] = value
        return _composed(plan, *used, *others)

    moved = [args[i] for i in moving], [tangents[i] for i in moving]
    return jax.jvp(of_moving, *moved)[1]


# As in dot.py.
_attend = two_modes(_forward, _tangent, jax.jit(_backward, static_argnums=0, inline=True), wrt=4)
_jitted = jax.jit(_attend, static_argnums=0, inline=True)


def _exact_product(plan: Plan, q: Array, k: Array) -> Array:
    exact = dataclasses.replace(plan.recipe, qk="baseline")
    return dataclasses.replace(plan, recipe=exact).logits(q, k, None, {"qk": Given()})


def _summed_to(x: Array, like: Array) -> Array:
    """x summed over the axes along which ``like`` was broadcast."""
    axes = tuple(i for i, n in enumerate(like.shape) if n == 1 != x.shape[i])
    return x.sum(axes, keepdims=True).astype(like.dtype)


def _grouped(name: str, x: Array, shape: tuple[int, ...], heads: int) -> Array:
    """What is broadcast against (*b, h, m, t), against (*b, k, m, g, t)."""
    fits = x.ndim <= len(shape) and all(
        n in (1, s) for n, s in zip(x.shape[::-1], shape[::-1], strict=False)
    )
    if not fits:
        raise ValueError(
            f"{name} has shape {x.shape}, which is not broadcast to {shape}: batch, heads, "
            "queries, keys."
        )
    x = x.reshape((1,) * (len(shape) - x.ndim) + x.shape)
    *batch, h, m, t = x.shape
    parts = (1, 1) if h == 1 else (heads, h // heads)
    return jnp.moveaxis(x.reshape(*batch, *parts, m, t), -3, -2)


def _check_shapes(q: Array, k: Array, v: Array) -> None:
    shapes = f"q {q.shape}, k {k.shape}, v {v.shape}"
    if not q.ndim == k.ndim == v.ndim or q.ndim < 3:
        raise ValueError(f"attention takes (*batch, tokens, heads, channels) of one rank: {shapes}")
    if not (q.shape[:-3] == k.shape[:-3] == v.shape[:-3] and k.shape[:-1] == v.shape[:-1]):
        raise ValueError(
            f"batches of all three, and tokens and heads of k and v must agree: {shapes}"
        )
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(f"q and k must have the same channels: {shapes}")
    if not q.shape[-1]:
        raise ValueError(f"q and k must have channels: {shapes}")
    if not k.shape[-2] or q.shape[-2] % k.shape[-2]:
        raise ValueError(f"k's heads, at least one, must divide q's: {shapes}")


def _varying_together(*arrays: Array | None, others: Any) -> list[Array | None]:
    """Arrays that vary over the same axes of a ``shard_map``."""
    there = [a for a in arrays if a is not None]
    together = iter([sharding.varying_together(a, a, *there, *others)[0] for a in there])
    return [None if a is None else next(together) for a in arrays]
