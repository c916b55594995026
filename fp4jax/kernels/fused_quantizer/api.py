"""quantize and fake_quantize by fused GPU kernels, with fp4jax.quantize's results.

Two kernels: one finds the tensor's amax, the other reads the array again and writes the result.
XLA's own code for the same takes two to five times the memory traffic on a GPU.
"""

import functools

import jax

from fp4jax.core.blocks import Axis, BlockView, normalize_axes
from fp4jax.core.qtensor import QTensor
from fp4jax.core.quantizer import _checked, quantize as quantize_in_jnp
from fp4jax.core.spec import TensorSpec, shown
from fp4jax.core.typing import Array, ArrayLike, Shaped
from fp4jax.kernels import backend
from fp4jax.kernels.fused_quantizer import base, dispatch, fused
from fp4jax.kernels.fused_quantizer.pallas_triton import Plan
from fp4jax.kernels.fused_quantizer.view import obstacle

IMPLEMENTATIONS = ("auto", "reference", "pallas")


def quantize(
    x: Shaped[ArrayLike, "..."],
    spec: TensorSpec,
    axis: Axis = -1,
    key: Array | None = None,
    *,
    implementation: str = "auto",
    interpret: bool = False,
) -> QTensor:
    """fp4jax.quantize, fused: amax, rotation, rounding and packing without XLA in between.

    The bits are those of fp4jax.quantize on a GPU for the same key. On CPU one thing is not
    fp4jax's to say: in which order XLA adds the 16 numbers of a rotation (``spec.hadamard``; see
    :mod:`fp4jax.core.hadamard`). Where float32 sums are inexact, numbers rotated there (and with
    them amax) may differ in the last bit.

    Args:
        x, spec, axis, key: as for fp4jax.quantize.
        implementation: "pallas": the kernels; "reference": jnp; "auto": the kernels on a GPU they
            are written for, if they can quantize such an array and pass a self-check on its first
            use; else jnp (see :func:`explain_quantize`).
        interpret: with "pallas", evaluate the kernels with XLA on any device: slow, for tests.

    Raises:
        ValueError: as fp4jax.quantize; for an unknown implementation; and for "pallas" where no
            kernel can do it.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.linspace(-1.0, 1.0, 32).reshape(2, 16)
        >>> q = quantize(x, TensorSpec(), implementation="pallas", interpret=True)
        >>> q.shape, q.nbytes
        ((2, 16), 22)
    """
    x, axes = _checked(x, spec, axis, key)
    way = _way(x, spec, axes, "packed", implementation, interpret)
    if way == "reference":
        return quantize_in_jnp(x, spec, axis, key)
    codes, block_scales, amax = _packed(x, key, spec, axes, way)
    view = BlockView(x.shape, axes)
    lengths = view.padded_shape if spec.hadamard else view.shape
    return QTensor(
        codes=codes,
        block_scales=block_scales,
        amax=amax,
        axes=tuple(a - x.ndim for a in axes),
        lengths=tuple(lengths[a] for a in axes),
        bound=float(spec.bound),
    )


def fake_quantize(
    x: Shaped[ArrayLike, "..."],
    spec: TensorSpec,
    axis: Axis = -1,
    key: Array | None = None,
    *,
    implementation: str = "auto",
    interpret: bool = False,
) -> Shaped[Array, "..."]:
    """fp4jax.fake_quantize, fused; the gradient passes straight through.

    Args, raises, bits: as :func:`quantize`.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([0.1, 0.24, 0.9, 6.0])
        >>> fake_quantize(x, TensorSpec(), implementation="pallas", interpret=True).tolist()
        [0.0, 0.0, 1.0, 6.0]
    """
    x, axes = _checked(x, spec, axis, key)
    way = _way(x, spec, axes, "fake", implementation, interpret)
    return _fake(x, spec, axes, way, key)


def explain_quantize(
    x: Array | jax.ShapeDtypeStruct, spec: TensorSpec, axis: Axis = -1, result: str = "packed"
) -> str:
    """Which implementation "auto" takes for such an array on this machine, and why.

    Args:
        x: an array, or a ``jax.ShapeDtypeStruct``.
        spec, axis: as for :func:`quantize`.
        result: "packed" for quantize, "fake" for fake_quantize, "operand" for recipes.

    Example:
        >>> import jax.numpy as jnp
        >>> explain_quantize(jnp.ones((4, 32)), TensorSpec(scaling="four_over_six"))
        "reference: scaling='four_over_six' compares two candidates a block; there is no kernel"
    """
    reason = dispatch.why_not(
        x.shape, x.dtype, spec, normalize_axes(axis, spec.block, len(x.shape)), result
    )
    return "pallas: fused kernels" if reason is None else f"reference: {reason}"


def _way(
    x: Array, spec: TensorSpec, axes: tuple[int, ...], result: str, asked: str, interpret: bool
) -> str:
    """ "reference", "auto" (the kernels on CUDA), "pallas" or "interpret"."""
    if asked not in IMPLEMENTATIONS:
        allowed = ", ".join(map(repr, IMPLEMENTATIONS))
        raise ValueError(f"implementation is {shown(asked)}; allowed: {allowed}.")
    if interpret and asked != "pallas":
        raise ValueError(f"interpret=True goes with implementation='pallas', not with {asked!r}.")
    if asked == "reference":
        return asked
    if asked == "auto":
        return (
            asked
            if dispatch.why_not(x.shape, x.dtype, spec, axes, result) is None
            else ("reference")
        )
    if (reason := obstacle(x.shape, spec, axes)) is not None:
        raise ValueError(f"no kernel can do this: {reason}; use implementation='auto'.")
    if not interpret and not backend.supported():
        raise ValueError(
            f"implementation='pallas' needs an NVIDIA GPU of compute capability 8.0 or more; this "
            f"is for {backend.device_name()}. Use implementation='auto', or interpret=True to try "
            "the kernels without a GPU."
        )
    return "interpret" if interpret else "pallas"


@functools.partial(jax.jit, static_argnums=(2, 3, 4), inline=True)
def _packed(x: Array, key: Array | None, spec: TensorSpec, axes: tuple[int, ...], way: str):
    if way == "auto":
        return dispatch.packed(x, key, spec, axes)
    return fused.packed(x, key, Plan(spec, "packed", way == "interpret"), axes)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _straight_through(
    x: Array, spec: TensorSpec, axes: tuple[int, ...], way: str, key: Array | None
) -> Array:
    if way == "reference":
        return base.fake(x, key, spec, axes)
    if way == "auto":
        return dispatch.fake(x, key, spec, axes)
    return fused.fake(x, key, Plan(spec, "fake", way == "interpret"), axes)


@_straight_through.defjvp
def _identity_gradient(spec, axes, way, primals, tangents):
    x, key = primals
    return _straight_through(x, spec, axes, way, key), tangents[0]


_fake = jax.jit(_straight_through, static_argnums=(1, 2, 3), inline=True)
