"""When the fused kernels quantize, and when jnp does; what fp4jax.kernels registers with core.

The kernels are used where they can be, unless switched off: by the environment variable
FP4JAX_FUSED_QUANTIZER=0, or by :func:`switch`. What is decided is decided when a function is
traced; a compiled function keeps it. Results are the same either way.
"""

import dataclasses
import functools
import importlib
import os
from typing import Any

import jax
import jax.numpy as jnp

from fp4jax.core import reference
from fp4jax.core.blocks import Axis, normalize_axes
from fp4jax.core.seeds import Seed
from fp4jax.core.spec import TensorSpec
from fp4jax.core.typing import Array, Float, Shaped
from fp4jax.kernels import backend, first_use, placement
from fp4jax.kernels.fused_quantizer.view import KernelView, obstacle

VARIABLE = "FP4JAX_FUSED_QUANTIZER"
#: The kernels' name in warnings.
FAMILY = "the fused quantizer"

#: Why the kernels are off in this process; None while they are on.
_off: str | None = f"{VARIABLE}=0" if os.environ.get(VARIABLE) == "0" else None


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
    if on:
        first_use.forget(FAMILY)


def explain_quantize(
    x: Array | jax.ShapeDtypeStruct, spec: TensorSpec, axis: Axis = -1, result: str = "packed"
) -> str:
    """Which implementation "auto" takes for such an array in a program made here, and why.

    Kernels have to prove themselves on a GPU before they are used, so a program that is exported
    to GPUs from a machine without one (``jax.export``) quantizes with jnp there.

    Args:
        x: an array, or a ``jax.ShapeDtypeStruct``.
        spec, axis: as for :func:`fp4jax.quantize`.
        result: "packed" for quantize, "fake" for fake_quantize, "operand" for recipes.

    Example:
        >>> import jax.numpy as jnp
        >>> explain_quantize(jnp.ones((4, 32)), TensorSpec(scaling="four_over_six"))
        "reference: scaling='four_over_six' compares two candidates a block; there is no kernel"
    """
    axes = normalize_axes(axis, spec.block, len(x.shape))
    reason = why_not(x.shape, x.dtype, spec, axes, result)
    if reason is not None:
        return f"reference: {reason}"
    if jax.sharding.get_abstract_mesh().empty and jax.device_count() > 1:
        return "fused: kernels, in programs for one device; where arrays are sharded the reference"
    return "fused: kernels"


def why_not(
    shape: tuple[int, ...],
    dtype: Any,
    spec: TensorSpec,
    axes: tuple[int, ...],
    result: str = "operand",
) -> str | None:
    """Why jnp quantizes such an array, in words; None if the kernels do.

    Args:
        shape, dtype: of the array.
        spec: how it is quantized.
        axes: the blocked axes, non-negative.
        result: "packed", "operand" or "fake".
    """
    if (reason := obstacle(shape, spec, axes)) is not None:
        return reason
    if _off is not None:
        return f"the fused quantizer is switched off ({_off})"
    if not backend.supported():
        return (
            f"{backend.device_name()} is not a GPU the kernels are written for (a program that is "
            "exported to GPUs from here holds jnp as well: kernels prove themselves on a GPU first)"
        )
    if (reason := placement.obstacle()) is not None:
        return reason
    if (reason := first_use.not_at_hand(backend.compute_capability())) is not None:
        return reason
    return _objection(spec, jnp.dtype(dtype).name, result, _kind(shape, axes))


def _kind(shape: tuple[int, ...], axes: tuple[int, ...]) -> str:
    """Which of the kernel's ways of loading an array is taken."""
    columns = KernelView(shape, axes).columns
    return "rows" if columns == 1 else "columns" if columns % 4 == 0 else "odd columns"


def _objection(spec: TensorSpec, dtype: str, result: str, kind: str) -> str | None:
    """What the self-check has against the kernels; a failure turns all of them off."""
    # Kernels are the same for an amax that is given.
    spec = dataclasses.replace(spec, amax="tensor") if spec.given else spec
    selfcheck = _module("selfcheck")
    return first_use.objection(
        FAMILY,
        (spec, dtype, result, kind),
        functools.partial(selfcheck.difference, spec, dtype, result, kind),
        instead=(
            "fp4jax quantizes with XLA's code in this process; results are right. Set "
            f"{VARIABLE}=0 to silence this, and please report it."
        ),
    )


def _module(name: str) -> Any:
    """A module that imports Pallas, which is done on machines with a use for it."""
    return importlib.import_module(f"fp4jax.kernels.fused_quantizer.{name}")


# The functions of fp4jax.core.reference: by the kernels on a GPU, elsewhere by jnp.


def packed(
    x: Array,
    key: Array | Seed | None,
    spec: TensorSpec,
    axes: tuple[int, ...],
    amax: Array | None = None,
) -> tuple[Array, Array, Array]:
    """As reference.packed."""
    return placement.on_one_gpu(
        x,
        key,
        amax,
        kernel=lambda x, key, amax: _module("fused").packed(x, key, spec, axes, amax),
        reference=lambda x, key, amax: reference.packed(x, key, spec, axes, amax),
    )


def fake(
    x: Array,
    key: Array | Seed | None,
    spec: TensorSpec,
    axes: tuple[int, ...],
    amax: Array | None = None,
) -> Shaped[Array, "..."]:
    """As reference.fake."""
    return placement.on_one_gpu(
        x,
        key,
        amax,
        kernel=lambda x, key, amax: _module("fused").fake(x, key, spec, axes, amax),
        reference=lambda x, key, amax: reference.fake(x, key, spec, axes, amax),
    )


def operand(
    x: Array, key: Array | Seed | None, amax: Array | None, spec: TensorSpec, axes: tuple[int, ...]
) -> tuple[Shaped[Array, "..."], Float[Array, ""]]:
    """As reference.operand."""

    def kernel(x: Array, key: Array | Seed | None, amax: Array | None) -> tuple[Array, Array]:
        values, found = _module("fused").operand(x, key, amax, spec, axes)
        # XLA cancels this cast against the one to bfloat16 that precedes the product.
        return values.astype(jnp.float32), found

    by_jnp = functools.partial(reference.operand, spec=spec, axes=axes)
    return placement.on_one_gpu(x, key, amax, kernel=kernel, reference=by_jnp)


def tensor_amax(x: Array, spec: TensorSpec, axes: tuple[int, ...]) -> Float[Array, ""]:
    """As reference.tensor_amax."""
    return placement.on_one_gpu(
        x,
        kernel=functools.partial(_module("fused").tensor_amax, spec=spec, axes=axes),
        reference=functools.partial(reference.tensor_amax, spec=spec, axes=axes),
    )
