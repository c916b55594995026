"""Which quantizer runs: the fused kernels or jnp; and the check that comes before the first use.

The kernels are used where they can be, unless switched off: by the environment variable
FP4JAX_FUSED_QUANTIZER=0, or by :func:`switch`. What is decided is decided when a function is
traced; a compiled function keeps it.
"""

import dataclasses
import functools
import os
import warnings

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType

from fp4jax.core.spec import TensorSpec
from fp4jax.core.typing import Array, Float, Shaped
from fp4jax.kernels import backend
from fp4jax.kernels.fused_quantizer import base, fused, selfcheck
from fp4jax.kernels.fused_quantizer.pallas_triton import Plan
from fp4jax.kernels.fused_quantizer.view import KernelView, obstacle

VARIABLE = "FP4JAX_FUSED_QUANTIZER"

#: Why the kernels are off in this process; None while they are on.
_off: str | None = f"{VARIABLE}=0" if os.environ.get(VARIABLE) == "0" else None

#: Arguments of the self-checks that kernels passed in this process.
_passed: set[tuple[TensorSpec, str, str, str]] = set()


def switch(on: bool) -> None:
    """Turns the fused quantizer on or off for what is traced from now on in this process.

    Functions that are compiled already keep what they have (``jax.clear_caches()`` forgets them).
    On: also after a failed self-check, which then runs again.

    Example:
        >>> switch(False)
        >>> why_not((4, 32), "float32", TensorSpec(), (1,))
        'the fused quantizer is switched off (switch(False))'
        >>> switch(True)
    """
    global _off
    _off = None if on else "switch(False)"


def why_not(
    shape: tuple[int, ...], dtype, spec: TensorSpec, axes: tuple[int, ...], result: str = "operand"
) -> str | None:
    """Why jnp quantizes such an array, in words; None if the kernels do.

    Args:
        shape, dtype: of the array.
        spec: how it is quantized.
        axes: the blocked axes, non-negative.
        result: "packed", "operand" or "fake".
    """
    reason = obstacle(shape, spec, axes) or _why_not_here()
    if reason is None and not _passes(spec, jnp.dtype(dtype).name, result, _kind(shape, axes)):
        reason = f"the fused quantizer is switched off ({_off})"
    return reason


def _why_not_here() -> str | None:
    if _off is not None:
        return f"the fused quantizer is switched off ({_off})"
    if not backend.supported():
        return f"{backend.device_name()} is not a GPU the kernels are written for"
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        if jax.device_count() > 1:
            return "the array may be sharded over several devices, and a kernel sees only one"
    elif mesh.size > 1 or any(kind != AxisType.Auto for kind in mesh.axis_types):
        return "there is a mesh, and a kernel sees only one device's part of an array"
    return None


def _kind(shape: tuple[int, ...], axes: tuple[int, ...]) -> str:
    """Which of the kernel's ways of loading an array is taken."""
    columns = KernelView(shape, axes).columns
    return "rows" if columns == 1 else "columns" if columns % 4 == 0 else "odd columns"


def _passes(spec: TensorSpec, dtype: str, result: str, kind: str) -> bool:
    """Runs the self-check; the first failure warns and turns the kernels off."""
    global _off
    if (spec, dtype, result, kind) in _passed:
        return True
    difference = selfcheck.difference(spec, dtype, result, kind)
    if difference is None:
        _passed.add((spec, dtype, result, kind))
        return True
    _off = f"its self-check failed: {difference}"
    warnings.warn(
        f"The fused quantizer is not used in this process: {difference} on "
        f"{backend.device_name()}. fp4jax quantizes with XLA's code instead; results are right. "
        f"Set {VARIABLE}=0 to silence this, and please report it.",
        RuntimeWarning,
        stacklevel=2,
    )
    return False


@dataclasses.dataclass(frozen=True)
class Fused:
    """The kernels for arrays of one kind; on another platform than CUDA the same in jnp."""

    spec: TensorSpec
    axes: tuple[int, ...]

    def operand(
        self, x: Array, key: Array | None, amax: Array | None
    ) -> tuple[Shaped[Array, "..."], Float[Array, ""]]:
        """As base.operand."""

        def kernel(x: Array, key: Array | None, amax: Array | None):
            values, amax = fused.operand(x, key, amax, Plan(self.spec, "operand"), self.axes)
            # XLA cancels this cast against the one to bfloat16 that precedes the product.
            return values.astype(jnp.float32), amax

        default = functools.partial(base.operand, spec=self.spec, axes=self.axes)
        return lax.platform_dependent(x, key, amax, cuda=kernel, default=default)

    def tensor_amax(self, x: Array) -> Float[Array, ""]:
        """As base.tensor_amax."""
        return lax.platform_dependent(
            x,
            cuda=lambda x: fused.tensor_amax(x, Plan(self.spec, "operand"), self.axes),
            default=lambda x: base.tensor_amax(x, self.spec, self.axes),
        )


def for_recipes(x: Array, spec: TensorSpec, axes: tuple[int, ...]) -> Fused | None:
    """The kernels for one operand of a recipe's GEMM; None where jnp is to quantize it."""
    return None if why_not(x.shape, x.dtype, spec, axes) else Fused(spec, axes)


def packed(x: Array, key: Array | None, spec: TensorSpec, axes: tuple[int, ...]):
    """As base.packed, by the kernel on CUDA."""
    return lax.platform_dependent(
        x,
        key,
        cuda=functools.partial(fused.packed, plan=Plan(spec, "packed"), axes=axes),
        default=functools.partial(base.packed, spec=spec, axes=axes),
    )


def fake(x: Array, key: Array | None, spec: TensorSpec, axes: tuple[int, ...]):
    """As base.fake, by the kernel on CUDA."""
    return lax.platform_dependent(
        x,
        key,
        cuda=functools.partial(fused.fake, plan=Plan(spec, "fake"), axes=axes),
        default=functools.partial(base.fake, spec=spec, axes=axes),
    )
