"""Explicit meshes: run blockwise arithmetic under automatic sharding, keep the result's sharding.

Under ``AxisType.Explicit`` every reshape and contraction of a sharded array must name its output
sharding. Cutting an axis into blocks of 16 cannot always: inside :func:`automatic` the compiler
propagates shardings as it does under ``AxisType.Auto``, and only the result's sharding is stated.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from fp4jax.core.typing import Array


def explicit_mesh() -> bool:
    """True if the current mesh has an axis in Explicit mode."""
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and jax.sharding.AxisType.Explicit in mesh.axis_types


def of(x: Array) -> Any:
    """The sharding in x's type, or None outside explicit meshes."""
    return jax.typeof(x).sharding if explicit_mesh() else None


def blocks_of(x: Array, axes: tuple[int, ...]) -> Any:
    """x's sharding with the given axes moved last and whole; None outside explicit meshes."""
    if not explicit_mesh():
        return None
    spec = jax.typeof(x).sharding.spec
    rest = [spec[a] for a in range(x.ndim) if a not in axes]
    return PartitionSpec(*rest, *[None] * len(axes))


def with_whole_axis(x: Array, axis: int) -> Any:
    """x's sharding with one axis whole; None outside explicit meshes."""
    if not explicit_mesh():
        return None
    spec = jax.typeof(x).sharding.spec
    return PartitionSpec(*(None if a == axis else spec[a] for a in range(x.ndim)))


def replicated() -> PartitionSpec:
    """The sharding of a scalar."""
    return PartitionSpec()


def automatic(function: Callable[..., Any], out_sharding: Any) -> Callable[..., Any]:
    """``function`` with explicit mesh axes turned automatic inside; itself if there are none."""
    if out_sharding is None or not explicit_mesh():
        return function
    out_sharding = jax.tree.map(_on_the_mesh, out_sharding)
    return jax.sharding.auto_axes(function, out_sharding=out_sharding)  # pyright: ignore


def _on_the_mesh(out_sharding: Any) -> Any:
    """That of an array made before ``jax.set_mesh``: on no mesh yet, so on every device."""
    if isinstance(out_sharding, NamedSharding) and out_sharding.mesh.empty:
        return out_sharding.spec
    return out_sharding


def varying_together(lhs: Array, rhs: Array, *others: Array) -> tuple[Array, Array]:
    """lhs and rhs, varying over each ``shard_map`` axis over which one of the arguments does.

    So that gradients vary as their primals do; that of the cast sums over the shards, as lax does.
    """
    union = frozenset().union(*map(varying_axes, (lhs, rhs, *others)))
    missing = (tuple(sorted(union - varying_axes(a))) for a in (lhs, rhs))
    left, right = (
        lax.pcast(a, axes, to="varying") if axes else a
        for a, axes in zip((lhs, rhs), missing, strict=True)
    )
    return left, right


def varying_axes(x: Array) -> frozenset[str]:
    """The axes of a ``shard_map`` over which x is known to vary."""
    return getattr(getattr(jax.typeof(x), "manual_axis_type", None), "varying", frozenset())
