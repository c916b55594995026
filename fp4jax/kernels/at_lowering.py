"""A choice that is made when a program is lowered: by how many devices share its arrays."""

from collections.abc import Callable
from typing import Any

import jax
from jax.core import ShapedArray
from jax.interpreters import batching, mlir

from fp4jax.core.primitive import Primitive


def by_devices(*args: Any, one: Callable[..., Any], several: Callable[..., Any]) -> Any:
    """``one(*args)`` in a program for one device, ``several(*args)`` in one for more.

    Args:
        args: pytrees of arrays.
        one, several: functions of them with results of the same shapes and dtypes; they are not
            differentiated.

    Example:
        >>> import jax.numpy as jnp
        >>> int(by_devices(jnp.int32(7), one=lambda x: x + 1, several=lambda x: x - 1))
        8
    """
    leaves, structure = jax.tree.flatten(args)
    results = jax.tree.structure(jax.eval_shape(several, *args))

    def flat(function: Callable[..., Any]) -> Callable[..., list[Any]]:
        return lambda *leaves: jax.tree.leaves(function(*structure.unflatten(leaves)))

    return results.unflatten(_by_devices.bind(*leaves, one=flat(one), several=flat(several)))


_by_devices = Primitive("fp4_by_devices")
_by_devices.multiple_results = True


@_by_devices.def_impl
def _execute(*args, one, several):
    return jax.jit(lambda *args: _by_devices.bind(*args, one=one, several=several))(*args)


@_by_devices.def_abstract_eval
def _shapes(*avals, one, several):
    del one
    shapes = jax.eval_shape(several, *avals)
    return [ShapedArray(shape.shape, shape.dtype) for shape in shapes]


def _lower(ctx: mlir.LoweringRuleContext, *args, one, several):
    devices = ctx.module_context.axis_context
    alone = isinstance(devices, mlir.ShardingContext) and devices.num_devices == 1
    return mlir.lower_fun(one if alone else several, multiple_results=True)(ctx, *args)


def _batch(args, dims, *, one, several):
    one, several = (jax.vmap(function, in_axes=dims) for function in (one, several))
    results = _by_devices.bind(*args, one=one, several=several)
    return results, [0] * len(results)


mlir.register_lowering(_by_devices, _lower)
batching.primitive_batchers[_by_devices] = _batch
