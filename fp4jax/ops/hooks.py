"""x and its amax before a product: functions of the operand, clip, learned amax.

The products themselves know numbers only. What a spec asks for beyond, or what a layer does with
its x (watch it, follow its amax), happens here, outside of their rules of differentiation.
"""

import dataclasses
from typing import Any

from jax.sharding import PartitionSpec

from fp4jax.core import hooks, quantizer, sharding
from fp4jax.core.typing import Array
from fp4jax.ops import gemm
from fp4jax.ops.amaxes import Amaxes

_X = "fprop.x"


def settled(plan: Any, lhs: Array, given: Amaxes | None) -> tuple[Array, Amaxes | None]:
    """lhs with the derivative that the spec of x asks for, and the amax of x as a number.

    Args:
        plan: of the product; ``fprop_x(lhs)`` is x as fprop quantizes it with its block axes,
            ``lhs(x)`` the inverse.
        lhs: the left operand.
        given: what the call was given.
    """
    spec = plan.recipe.fprop[0]
    amax = None if given is None else given.given.get(_X)
    if spec is None or not (callable(amax) or spec.hooked):
        return lhs, given
    x, axes = _fprop_x(plan, lhs)
    if callable(amax):
        amax = quantizer.static_amax(amax(x, spec, axes), _X)
    axis_name = None if given is None else given.axis_name
    values = {} if given is None else dict(given.given)
    if spec.hooked:
        used = gemm.amax_of(x, spec, axes)
        if spec.amax == "learned":
            used = used if amax is None else hooks.known(amax, used)
        elif axis_name is not None:
            used = quantizer.largest_of_shards(used, axis_name)

        def fake(lhs: Array, used: Array) -> Array:
            x, axes = plan.fprop_x(lhs)
            return plan.lhs(gemm.dequantized(gemm.operand(x, spec, axes, None, used)))

        fake = sharding.automatic(fake, sharding.of(lhs))
        lhs, used = hooks.hooked(spec, lhs, amax, used, fake)
        amax = used if spec.given else None
    if amax is not None:
        values[_X] = amax
    return lhs, dataclasses.replace(given or Amaxes({}), given=values)


def _fprop_x(plan: Any, lhs: Array) -> tuple[Array, Any]:
    """``plan.fprop_x``; on explicit meshes sharded along its leading axis alone, as lhs is."""
    if not sharding.explicit_mesh():
        return plan.fprop_x(lhs)
    axes: list[Any] = []

    def x_of(lhs: Array) -> Array:
        x, of_x = plan.fprop_x(lhs)
        axes.append(of_x)
        return x

    # The leading axis of x begins with this one of lhs.
    leading = None if plan.leading is None else sharding.of(lhs).spec[plan.leading]
    return sharding.automatic(x_of, PartitionSpec(leading))(lhs), axes[-1]


def follow(x: Array, spec: Any, axes: Any) -> Array:
    """The amax of x at hand, as a function of the operand: a static recipe computes dynamically.

    Example:
        >>> import jax.numpy as jnp
        >>> from fp4jax.core.spec import TensorSpec
        >>> from fp4jax.ops.gemm import BlockAxes
        >>> float(follow(jnp.array([[1.0, -3.0]]), TensorSpec(amax="static"), BlockAxes(-1, None)))
        3.0
    """
    return gemm.amax_of(x, spec, axes)
