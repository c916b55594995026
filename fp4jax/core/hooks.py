"""Gradients of a tensor's amax: learned (LSQ), and clipped at a share of the largest magnitude.

Quantizing passes gradients straight through. A spec may change that with a hook, a function that
returns x as it is and has a derivative of its own; what is quantized afterwards is ``hook(x)``:

    clipped  dQ/dx = 1 where |x| <= A, else 0                           A = clip * max |x|
    learned  dQ/dx = 1 where |x| <= A, else 0
             dQ/dA = (Q(x) - x) / A where |x| <= A, else sign(x)        times g
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from fp4jax.core.spec import TensorSpec
from fp4jax.core.typing import Array, ArrayLike, Float, Shaped


def hooked(
    spec: TensorSpec,
    x: Shaped[Array, "..."],
    given: ArrayLike | None,
    used: Float[Array, ""],
    fake: Callable[[Array, Array], Array],
) -> tuple[Shaped[Array, "..."], Float[Array, ""]]:
    """x and the amax that it is quantized by, with the derivative that the spec asks for.

    Args:
        spec: with ``hooked``.
        x: the tensor.
        given: the learned amax, a parameter; None if there is none.
        used: A, by which x is quantized.
        fake: (x, A) -> Q(x) in x's shape.
    """
    used = lax.stop_gradient(used)
    if spec.amax != "learned":
        return clipped(x, used), used
    amax = jnp.float32(0) if given is None else jnp.asarray(given).astype(jnp.float32)
    return learned(fake, float(spec.format.elements.maximum), x, amax, used), used


def known(amax: Float[Array, ""], own: Float[Array, ""]) -> Float[Array, ""]:
    """A given amax, or a tensor's own where that is 0: not known yet.

    A sign that a step of the optimizer may have left is dropped.

    Example:
        >>> own = jnp.float32(3)
        >>> float(known(jnp.float32(0), own)), float(known(jnp.float32(-2), own))
        (3.0, 2.0)
    """
    return jnp.where(amax == 0, own, jnp.abs(amax))


@jax.custom_jvp
def clipped(x: Shaped[Array, "..."], amax: Float[Array, ""]) -> Shaped[Array, "..."]:
    """x, whose gradient is 0 where it exceeds amax, as that of ``jnp.clip(x, -amax, amax)``.

    Example:
        >>> jax.grad(lambda x: clipped(x, jnp.float32(2)).sum())(jnp.array([1.0, -2.0, 3.0]))
        Array([1., 1., 0.], dtype=float32)
    """
    return x


@clipped.defjvp
def _clipped_jvp(primals, tangents):
    x, amax = primals
    return x, jnp.where(_inside(x, amax), tangents[0], jnp.zeros_like(x))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def learned(
    fake: Callable[[Array, Array], Array],
    largest: float,
    x: Shaped[Array, "..."],
    amax: Float[Array, ""],
    used: Float[Array, ""],
) -> Shaped[Array, "..."]:
    """x, with LSQ's gradient of the tensor's amax.

    LSQ learns the step s of ``Q(v) = round(clip(v / s, -Q_N, Q_P)) s``; by its straight-through
    estimator dQ/ds is ``round(v / s) - v / s`` inside the range and its end outside. Here a step is
    the tensor scale (of NVFP4 A / 2688) times the scale of the block, which is constant but for
    jumps, and the range ends at A. With s in proportion to A:

        dQ/dA = (Q(x) - x) / A   where |x| <= A
                sign(x)          elsewhere
        dQ/dx = 1                where |x| <= A, else 0

    The gradient of A is multiplied by ``g = 1 / sqrt(N Q_P)``: N values of an example (of the
    leading axis), Q_P the largest element of the format, 6 of NVFP4. As long as amax is 0,
    ``used`` is x's own and amax has no gradient.

    Args:
        fake: (x, A) -> Q(x).
        largest: Q_P.
        x: the tensor.
        amax: the parameter; its sign does not count.
        used: A, its magnitude.

    Source: Esser et al., "Learned Step Size Quantization", ICLR 2020 (arXiv 1902.08153), equations
    2, 3 and section 2.2.

    Example:
        >>> def loss(amax):
        ...     x = jnp.array([[3.0, 0.5]])
        ...     return learned(lambda x, amax: x, 6.0, x, amax, jnp.abs(amax)).sum()
        >>> float(jax.grad(loss)(jnp.float32(2))) == float(jnp.float32(1 / 12**0.5))
        True
    """
    return x


@learned.defjvp
def _learned_jvp(fake, largest, primals, tangents):
    x, amax, used = primals
    dx, damax, _ = tangents
    inside = _inside(x, used)
    wide = x.astype(jnp.float32)
    error = fake(x, used).astype(jnp.float32) - wide
    slope = jnp.where(inside, error / used, jnp.sign(wide))
    values = max(1, x.size // max(1, x.shape[0]))
    scale = jnp.sign(amax) / math.sqrt(values * largest)
    # An error of NaN where amax is 0 would be kept by a product with 0.
    slope = jnp.where(amax == 0, jnp.float32(0), slope * scale)
    dx = jnp.where(inside, dx, jnp.zeros_like(dx))
    return x, dx + (slope * damax).astype(x.dtype)


def _inside(x: Array, amax: Array) -> Array:
    return jnp.abs(x.astype(jnp.float32)) <= amax
