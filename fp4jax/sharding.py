"""Explicit meshes: run blockwise arithmetic under automatic sharding, keep the result's sharding.

Under ``AxisType.Explicit`` every reshape and contraction of a sharded array must name its output
sharding. Cutting an axis into blocks of 16 cannot always: inside :func:`automatic` the compiler
propagates shardings as it does under ``AxisType.Auto``, and only the result's sharding is stated.
"""

from collections.abc import Callable
from typing import Any

import jax

from fp4jax.typing import Array


def explicit_mesh() -> bool:
    """True if the current mesh has an axis in Explicit mode."""
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and jax.sharding.AxisType.Explicit in mesh.axis_types


def of(x: Array) -> Any:
    """The sharding in x's type, or None outside explicit meshes."""
    return jax.typeof(x).sharding if explicit_mesh() else None


def automatic(function: Callable[..., Array], out_sharding: Any) -> Callable[..., Array]:
    """``function`` with explicit mesh axes turned automatic inside; itself if there are none."""
    if out_sharding is None or not explicit_mesh():
        return function
    return jax.sharding.auto_axes(function, out_sharding=out_sharding)  # pyright: ignore
