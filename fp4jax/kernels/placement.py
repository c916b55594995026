"""Where a kernel may run: in a program for one GPU, or in the part of a program that is one GPU's.

A kernel sees whole arrays. Where the compiler divides arrays over devices (``AxisType.Auto`` and
``Explicit``) it would have to gather them first, which costs more than a kernel saves; XLA's own
code is divided with its arrays, and finds the amax of the whole. Inside ``jax.shard_map``, manual
over all axes, each device's part is an array of its own, and a kernel is right.

Without a mesh it is not known while tracing whether arguments will be sharded. It is known when
the program is lowered: so both ways are traced, and lowering keeps the kernel in programs for one
device and the reference in all others. Nothing is ever gathered, and results are the same.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import jax
from jax import lax


def obstacle() -> str | None:
    """Why what is traced now is no place for a kernel, in words; None if it is one.

    Example:
        >>> obstacle() is None
        True
        >>> mesh = jax.sharding.AbstractMesh((8,), ("data",))
        >>> with jax.sharding.use_abstract_mesh(mesh):
        ...     print(obstacle())
        arrays are divided over the mesh axes ('data',), and a kernel sees one device's part
    """
    mesh = jax.sharding.get_abstract_mesh()
    manual = jax.sharding.AxisType.Manual
    axes = zip(mesh.axis_names, mesh.axis_sizes, mesh.axis_types, strict=True)
    divided = tuple(name for name, size, kind in axes if size > 1 and kind != manual)
    if not divided:
        return None
    return f"arrays are divided over the mesh axes {divided}, and a kernel sees one device's part"


def on_one_gpu(*args: Any, kernel: Callable[..., Any], reference: Callable[..., Any]) -> Any:
    """``kernel(*args)`` where a CUDA device has whole arrays, ``reference(*args)`` anywhere else.

    Neither is differentiated: gradients are for the caller to define.

    Args:
        args: pytrees of arrays.
        kernel, reference: functions of them with results of the same shapes and dtypes.

    Example:
        >>> import jax.numpy as jnp
        >>> double = lambda x: x + x
        >>> float(on_one_gpu(jnp.float32(2), kernel=double, reference=double))
        4.0
    """
    args = lax.stop_gradient(args)
    on_cuda = functools.partial(lax.platform_dependent, cuda=kernel, default=reference)
    if not jax.sharding.get_abstract_mesh().empty or jax.device_count() == 1:
        return on_cuda(*args)
    # Imported here: it imports Pallas.
    by_devices = importlib.import_module("fp4jax.kernels.at_lowering").by_devices
    return by_devices(*args, one=on_cuda, several=reference)
