"""The one place that decides for which platform a program is made.

A function is traced once and may be compiled for another machine than the one it is traced on
(``jax.export``, a CPU device on a machine with a GPU). So nothing looks at the default back end
while it is traced: both ways are traced, and lowering keeps the one of its own platform.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero


def by_platform(*args: Any, cpu: Callable[..., Any], default: Callable[..., Any]) -> Any:
    """``cpu(*args)`` in a program for CPUs, ``default(*args)`` in any other.

    Derivatives are those of ``cpu`` on every platform: differentiating the choice itself would keep
    the residuals of both ways.

    Args:
        args: arrays, or pytrees of arrays.
        cpu, default: functions of them, with results of the same shapes and dtypes; arrays that
            are differentiated must be among the arguments, not in a closure.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> def cpu_or_not(x):
        ...     return by_platform(x, cpu=lambda x: x + 1, default=lambda x: x - 1)
        >>> exported = jax.export.export(jax.jit(cpu_or_not), platforms=["cuda"])
        >>> module = exported(jax.ShapeDtypeStruct((), jnp.float32)).mlir_module()
        >>> "subtract" in module, "add" in module
        (True, False)
    """

    @jax.custom_jvp
    def chosen(*args: Any) -> Any:
        return lax.platform_dependent(*args, cpu=cpu, default=default)

    def rule(primals: Any, tangents: Any) -> Any:
        leaves, structure = jax.tree.flatten(primals)
        given = jax.tree.leaves(tangents, is_leaf=_is_zero)
        moving = [i for i, t in enumerate(given) if not _is_zero(t)]

        def of_moving(*values: Any) -> Any:
            used = list(leaves)
            for i, value in zip(moving, values, strict=True):
                used[i] = value
            return cpu(*structure.unflatten(used))

        moved = [leaves[i] for i in moving], [given[i] for i in moving]
        return chosen(*primals), jax.jvp(of_moving, *moved)[1]

    # Products with tangents that are zero are not made.
    chosen.defjvp(rule, symbolic_zeros=True)
    return chosen(*args)


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, SymbolicZero)


def platform_of(arrays: Any) -> str:
    """The platform, such as "cpu", on which a program called with these arrays runs.

    For decisions of the host, which program to call; not for what is traced.

    Args:
        arrays: a pytree; of no arrays of a device, it is the default device's platform.

    Example:
        >>> import jax
        >>> cpu, *_ = jax.devices("cpu")
        >>> platform_of({"kernel": jax.device_put(1.0, cpu)})
        'cpu'
    """
    placed = [leaf for leaf in jax.tree.leaves(arrays) if isinstance(leaf, jax.Array)]
    device, *_ = (placed or [jnp.zeros(())])[0].devices()
    return device.platform
