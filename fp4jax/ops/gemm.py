"""One quantized GEMM: its operands and its contraction.

A quantized operand enters as code value x block scale, which is exact in bfloat16 (at most 6
significant bits). Products are accumulated in float32, then the accumulator is multiplied with
the tensor scale of the first and of the second operand: what the Blackwell NVFP4 GEMM computes.
So with every format whose code value x block scale is exact in bfloat16 (E8M0 scales; none). With
float32 block scales the product of both is rounded once, to float32, and multiplied as such.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from fp4jax.core import exact, hadamard, quantizer
from fp4jax.core.formats import float_array
from fp4jax.core.platform import by_platform
from fp4jax.core.quantizer import check_key
from fp4jax.core.seeds import Seed
from fp4jax.core.spec import TensorSpec
from fp4jax.core.typing import Array, ArrayLike, DTypeLike, Float, Shaped
from fp4jax.ops.amaxes import Amaxes
from fp4jax.ops.recipe import ROLES, Recipe
from fp4jax.ops.role_keys import RoleKeys


class Operand(NamedTuple):
    """What enters a GEMM: values and their tensor scale (None: high precision).

    The scale is a scalar or, with ``amax="example"`` or "row", of the values' rank and 1 along
    the axes that the GEMM contracts. Values that are exact in bfloat16 have one: 1, if their
    format has no tensor scale.
    """

    values: Shaped[Array, "..."]
    scale: Float[Array, "*parts"] | None


class Switched(Operand):
    """An operand that a switch may leave in high precision: its values are any, its scale is 1."""


class BlockAxes(NamedTuple):
    """Where an operand's blocks lie: 1x16 along ``contracted``, 16x16 tiles over ``tile``.

    ``tile`` is a (row, column) pair, or None for operands that cannot have tiles. ``rows`` are the
    axes, from the end, that the GEMM does not contract: with ``amax="row"`` every place along them
    has a tensor scale; None where an output sums several of them. ``examples``, for
    ``amax="example"``: an axis from the end, and how many examples of how many places lie along
    it; None for operands without examples.
    """

    contracted: int
    tile: tuple[int, int] | None
    rows: tuple[int, ...] | None = None
    examples: tuple[int, int, int] | None = None


def operand(
    x: Array,
    spec: TensorSpec | None,
    axes: BlockAxes,
    seed: Array | Seed | None,
    amax_of_all: Array | None = None,
) -> Operand:
    """Quantizes one operand of a GEMM, or a part of one whose amax is ``amax_of_all``.

    With hadamard the contracted axis comes out padded to a multiple of 16, in the rotated basis.
    """
    if spec is None:
        return Operand(x, None)
    if spec.amax == "static" and amax_of_all is None:
        quantizer.static_amax(None, "an operand of the product")  # raises
    if spec.amax == "example":
        return _by_examples(x, spec, axes, seed)
    apart = apart_of(spec, axes, x.ndim)
    return _quantized(spec, _spec_axes(spec, axes, x.ndim), apart, x, seed, amax_of_all)


def operand_of(
    role: str,
    x: Array,
    spec: TensorSpec | None,
    axes: BlockAxes,
    keys: RoleKeys | None,
    amaxes: Amaxes | None,
) -> Operand:
    """The operand of a role, with its random bits and its amax."""
    amax = None
    if amaxes is not None and spec is not None:
        amax = amaxes.of(role, spec, x, _spec_axes(spec, axes, x.ndim))
    quantized = operand(x, spec, axes, seed(keys, spec, role), amax)
    return switched(quantized, x, spec, axes, None if amaxes is None else amaxes.switch(role))


def switched(
    quantized: Operand, x: Array, spec: TensorSpec | None, axes: BlockAxes, on: Array | None
) -> Operand:
    """The operand, or where its switch is off x itself (with hadamard rotated, as its partner)."""
    if spec is None or on is None:
        return quantized
    if spec.hadamard:
        x = hadamard.random_hadamard(x, _spec_axes(spec, axes, x.ndim)[0])
    values, scale = quantized
    scale = None if scale is None else jnp.where(on, scale, jnp.ones_like(scale))
    return Switched(jnp.where(on, values, x.astype(values.dtype)), scale)


def amax_of(x: Array, spec: TensorSpec, axes: BlockAxes) -> Float[Array, ""]:
    """The tensor amax that an operand has of its own."""
    return quantizer.tensor_amax(x, spec, _spec_axes(spec, axes, x.ndim))


def apart_of(spec: TensorSpec, axes: BlockAxes, ndim: int) -> tuple[int, ...]:
    """The axes of an operand along which each place has a tensor scale of its own.

    Raises:
        ValueError: for rows that an output sums.
    """
    if spec.amax != "row":
        return ()
    if axes.rows is None:
        raise ValueError(
            "amax='row' gives every pixel a scale of its own, of which an output of a convolution "
            "sums several: use 'example', 'tensor' or 'static' for activations and gradients."
        )
    return tuple(sorted(a % ndim for a in axes.rows if a >= -ndim))


def _by_examples(x: Array, spec: TensorSpec, axes: BlockAxes, seed: Array | Seed | None) -> Operand:
    """An operand of which each example has a tensor scale."""
    if axes.examples is None:
        raise ValueError(
            "amax='example' needs a leading axis that is not contracted: use 'tensor' or 'row'."
        )
    axis, n, places = axes.examples
    axis = axis % x.ndim
    split = x.reshape(*x.shape[:axis], n, places, *x.shape[axis + 1 :])
    block = _spec_axes(spec, axes, split.ndim)
    values, scale = _quantized(spec, block, (axis,), split, seed, None)
    together = lambda a: a.reshape(*a.shape[:axis], n * places, *a.shape[axis + 2 :])  # noqa: E731
    repeated = [places if a == axis + 1 else size for a, size in enumerate(scale.shape)]
    return Operand(together(values), together(jnp.broadcast_to(scale, repeated)))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _quantized(
    spec: TensorSpec,
    axes: tuple[int, ...],
    apart: tuple[int, ...],
    x: Array,
    seed: Array | Seed | None,
    amax_of_all: Array | None,
) -> Operand:
    values, amax = quantizer.operand(x, seed, amax_of_all, spec, axes, apart)
    if amax is not None:
        return Operand(values, exact.divide(amax, float(spec.bound)))
    in_bfloat16 = spec.format.scale != "float32"
    return Operand(values, jnp.ones((), jnp.float32) if in_bfloat16 else None)


@_quantized.defjvp
def _straight_through(spec, axes, apart, primals, tangents):
    """Where gradients are differentiated again: the operand's, as if nothing were rounded."""
    operand = _quantized(spec, axes, apart, *primals)
    dx = tangents[0].astype(jnp.float32)
    if spec.hadamard:
        dx = hadamard.random_hadamard(dx, axes[0])
    if operand.scale is None:
        return operand, Operand(dx, None)
    zero = operand.scale == 0
    dvalues = jnp.where(zero, jnp.float32(0), dx / jnp.where(zero, jnp.float32(1), operand.scale))
    return operand, Operand(dvalues, jnp.zeros_like(operand.scale))


def pair(
    recipe: Recipe,
    gemm: str,
    first: tuple[Array | Operand, BlockAxes],
    second: tuple[Array | Operand, BlockAxes],
    keys: RoleKeys | None,
    amaxes: Amaxes | None,
) -> tuple[Operand, Operand]:
    """Both operands of ``gemm`` (fprop, dgrad or wgrad), quantized as the recipe says.

    Each is given with its block axes; one that is quantized already (a residual) is dequantized
    first if the recipe quantizes it again, and else taken as it is.
    """
    roles = [role for role in ROLES if role.startswith(gemm)]
    done = []
    for (x, axes), spec, role in zip((first, second), getattr(recipe, gemm), roles, strict=True):
        if spec is not None:
            x = operand_of(role, dequantized(x), spec, axes, keys, amaxes)
        done.append(x if isinstance(x, Operand) else Operand(x, None))
    return done[0], done[1]


def for_quantizers(recipe: Recipe, g: Array) -> Array:
    """g in memory, if the backward pass quantizes it.

    Each quantizer reads it twice, for amax and for the codes, and those of dgrad and wgrad differ:
    XLA would compute what it is made from (the gradient of a norm, say) in all four passes.

    Example:
        >>> from fp4jax.ops.recipe import get_recipe
        >>> g = jnp.array([1.0, -2.0])
        >>> for_quantizers(get_recipe("baseline"), g) is g
        True
        >>> for_quantizers(get_recipe("full"), g).tolist()
        [1.0, -2.0]
    """
    quantized = recipe.dgrad[0] is not None or recipe.wgrad[1] is not None
    return exact.materialize(g) if quantized else g


def tangent(
    recipe: Recipe,
    operands: Sequence[tuple[Array | Operand, BlockAxes]],
    tangents: Sequence[Array | None],
    keys: RoleKeys | None,
    amaxes: Amaxes | None,
    contract: Callable[[Operand, Operand], Array],
) -> Array:
    """fprop's tangent, straight through the rounding: ``dx Q(w) + Q(x) dw``, not quantized.

    Args:
        recipe: of the product.
        operands: x and w with their block axes; w may be quantized already.
        tangents: dx and dw, laid out as they are; None for zero, of one of them at most.
        keys, amaxes: fprop's, so that Q is.
        contract: the product of two operands.
    """
    quantized, moved = [], []
    for i, ((x, axes), dx, spec) in enumerate(zip(operands, tangents, recipe.fprop, strict=True)):
        if spec is not None and not isinstance(x, Operand):
            x = operand_of(ROLES[i], x, spec, axes, keys, amaxes)
        quantized.append(x if isinstance(x, Operand) else Operand(x, None))
        if dx is not None and spec is not None and spec.hadamard:
            # In float32: rotated bfloat16 is rounded, which is not linear.
            dx = hadamard.random_hadamard(dx.astype(jnp.float32), axes.contracted % dx.ndim)
        moved.append(None if dx is None else Operand(dx, None))
    (x, w), (dx, dw) = quantized, moved
    terms = [] if dx is None else [contract(dx, w)]
    return functools.reduce(jnp.add, terms if dw is None else [*terms, contract(x, dw)])


def residual(
    recipe: Recipe,
    role: str,
    x: Array,
    axes: BlockAxes,
    keys: RoleKeys | None,
    amaxes: Amaxes | None,
) -> Array | Operand:
    """What the backward pass uses for x (role "fprop.x") or w ("fprop.w"), in its own basis.

    The array itself, or with ``residuals="quantized"`` Q(x) as in fprop: computed again from the
    same bits rather than stored, which the compiler may undo where memory allows.
    """
    spec = recipe.operands[ROLES.index(role)]
    if recipe.residuals == "original" or spec is None:
        return x
    quantized = operand_of(role, x, spec, axes, keys, amaxes)
    if not spec.hadamard:
        # Several scales lie along an axis that the backward pass contracts.
        return dequantized(quantized) if spec.several_scales else quantized
    axis = axes.contracted % x.ndim
    rotated_back = hadamard.inverse_random_hadamard(dequantized(quantized), axis)
    return lax.slice_in_dim(rotated_back, 0, x.shape[axis], axis=axis)


def seed(keys: RoleKeys | None, spec: TensorSpec | None, role: str) -> Seed | None:
    """What an operand rounds with; None if it is not rounded stochastically."""
    return keys.of(role) if keys is not None and spec is not None and spec.stochastic else None


def tap_seeds(keys: RoleKeys | None, spec: TensorSpec | None, role: str, taps: int) -> Seed | None:
    """:func:`seed` of an operand's views under each of a window's taps, (taps, 2)."""
    if keys is None or spec is None or not spec.stochastic:
        return None
    return keys.of_taps(role, taps)


def backward_keys(recipe: Recipe, keys: RoleKeys | None, y: Array) -> RoleKeys | None:
    """What the backward pass of a call draws from: of several calls of a layer, known by their y.

    A quantized residual is that of fprop, so its bits must be fprop's.
    """
    if keys is None or recipe.residuals == "quantized" or recipe.stochastic_forward:
        return keys
    return keys.of_data(y)


def dequantized(x: Array | Operand) -> Array:
    """An operand's values times its tensor scale; an array as it is."""
    if not isinstance(x, Operand):
        return x
    return x.values if x.scale is None else x.values * x.scale


def _spec_axes(spec: TensorSpec, axes: BlockAxes, ndim: int) -> tuple[int, ...]:
    if not spec.tiles:
        return (axes.contracted % ndim,)
    if axes.tile is None:
        raise ValueError(
            f"block={spec.block} is for weights; activations and gradients of a convolution take "
            f"block=(1, {spec.block[1]})."
        )
    return tuple(a % ndim for a in axes.tile)


def checked(
    name: str,
    lhs: Shaped[ArrayLike, "..."],
    rhs: Shaped[ArrayLike, "..."],
    recipe: Recipe,
    key: Array | RoleKeys | None,
) -> tuple[Array, Array]:
    """The operands as arrays; ValueError unless ``recipe`` can quantize them."""
    if not recipe.quantizes:
        return jnp.asarray(lhs), jnp.asarray(rhs)
    if recipe.stochastic and key is None:
        raise ValueError(
            f"recipe {recipe.name!r} rounds stochastically but key is None; pass "
            f"key=jax.random.key(seed) to {name}, a different one for every step and layer."
        )
    if recipe.stochastic and not isinstance(key, RoleKeys):
        check_key(key)
    return float_array("lhs", lhs), float_array("rhs", rhs)


def contract(
    a: Operand,
    b: Operand,
    product: Callable[..., Array],
    out_dtype: DTypeLike,
    precision=None,
    place: tuple[Callable[[Array], Array], Callable[[Array], Array]] | None = None,
) -> Array:
    """``product(a, b)`` in float32, times both tensor scales, in ``out_dtype``.

    ``product(a, b, precision=, preferred_element_type=)`` is bilinear: a dot or a convolution.
    ``place`` turns several scales of a, and of b, so that they fit the result.
    """
    if a.scale is None and b.scale is None:
        # A float32 cotangent may meet bfloat16 operands; convolutions want one dtype.
        same = a.values.dtype == b.values.dtype
        dtype = a.values.dtype if same else jnp.dtype(jnp.float32)
        # Operands of formats with float32 block scales are wider than the result may be.
        same = same and dtype.itemsize <= jnp.dtype(out_dtype).itemsize
        y = product(
            a.values.astype(dtype),
            b.values.astype(dtype),
            precision=precision,
            preferred_element_type=jnp.dtype(out_dtype) if same else dtype,
        )
        return y.astype(out_dtype)
    accumulator = _accumulate(a, b, functools.partial(product, precision=precision))
    for i, scale in enumerate((a.scale, b.scale)):
        if scale is not None:
            placed = place[i](scale) if place is not None and scale.ndim else scale
            accumulator = accumulator * placed
    return accumulator.astype(out_dtype)


def _accumulate(a: Operand, b: Operand, product: Callable[..., Array]) -> Array:
    """``product`` with float32 sums: of bfloat16 operands on accelerators where that is exact."""

    def in_dtype(dtype: DTypeLike, x: Array, y: Array) -> Array:
        return product(
            x.astype(dtype), y.astype(dtype), preferred_element_type=jnp.dtype(jnp.float32)
        )

    in_float32 = functools.partial(in_dtype, jnp.float32)
    exact_in_bfloat16 = all(
        (o.scale is not None and not isinstance(o, Switched)) or o.values.dtype == jnp.bfloat16
        for o in (a, b)
    )
    if not exact_in_bfloat16:
        return in_float32(a.values, b.values)
    # XLA:CPU lacks such products.
    in_bfloat16 = functools.partial(in_dtype, jnp.bfloat16)
    return by_platform(a.values, b.values, cpu=in_float32, default=in_bfloat16)
