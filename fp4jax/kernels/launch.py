"""The one place that knows which Pallas back end runs on GPUs.

Pallas' Triton back end is deprecated since JAX 0.11, but up to 0.12 it is the only one behind
``pl.pallas_call`` on GPUs; Mosaic GPU is reached through another function. Kernels are launched
by :func:`pallas_call` alone, so another back end is a change of this file. (The exception is
experimental/mosaic_tcgen05.py, which only Mosaic GPU can express.)
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from fp4jax.core import sharding
from fp4jax.core.typing import Array


def pallas_call(
    kernel: Callable[..., None],
    *,
    out_shape: Any,
    grid: tuple[int, ...],
    in_specs: Any,
    out_specs: Any,
    name: str,
    num_warps: int = 4,
    num_stages: int = 2,
    interpret: bool = False,
) -> Callable[..., Any]:
    """``pl.pallas_call`` for GPUs, by its Triton back end.

    Args:
        kernel, out_shape, grid, in_specs, out_specs: as for ``pl.pallas_call``; the lengths of
            all blocks and of arrays made in the kernel must be powers of two.
        name: of the kernel, as profilers show it.
        num_warps: of 32 threads each, per program.
        num_stages: of the software pipeline of a loop's loads.
        interpret: evaluate the kernel with XLA, on any device.

    Returns:
        A function of the input arrays.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> def kernel(x, y):
        ...     y[...] = x[...] * 2.0
        >>> whole = pl.BlockSpec((4,), lambda i: (0,))
        >>> double = pallas_call(
        ...     kernel,
        ...     out_shape=jax.ShapeDtypeStruct((4,), jnp.float32),
        ...     grid=(1,),
        ...     in_specs=[whole],
        ...     out_specs=whole,
        ...     name="double",
        ...     interpret=True,
        ... )
        >>> double(jnp.ones(4)).tolist()
        [2.0, 2.0, 2.0, 2.0]
    """
    if not interpret:
        # Given when the kernel is lowered, that is outside of any context this function could set.
        warnings.filterwarnings(
            "ignore", "The Pallas Triton backend is deprecated", DeprecationWarning
        )

    def call(*arrays: Array) -> Any:
        return pl.pallas_call(
            kernel,
            out_shape=_varying_as(arrays, out_shape),
            grid=grid,
            in_specs=in_specs,
            out_specs=out_specs,
            name=name,
            # Always given: JAX 0.10 takes Mosaic GPU where they are missing.
            compiler_params=triton.CompilerParams(num_warps=num_warps, num_stages=num_stages),
            interpret=interpret,
        )(*arrays)

    return call


def _varying_as(arrays: Sequence[Array], out_shape: Any) -> Any:
    """The results' shapes; inside ``shard_map``, varying over what the arrays vary over."""
    axes = frozenset().union(*map(sharding.varying_axes, arrays))
    if not axes:
        return out_shape
    varying = jax.sharding.ManualAxisType(varying=axes)
    return jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, manual_axis_type=varying), out_shape
    )
