"""Who quantizes: jax.numpy, or fused kernels that came in through :func:`register_fused`.

core knows what fused kernels can do for it, not where they are: :mod:`fp4jax.kernels` registers
them when it is imported, as a function that loads them on the first use.
"""

import functools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from fp4jax.core import reference
from fp4jax.core.spec import TensorSpec, shown
from fp4jax.core.typing import Array

IMPLEMENTATIONS = ("auto", "reference", "fused")


@runtime_checkable
class Quantizer(Protocol):
    """An implementation: a module or an object with the functions of :mod:`fp4jax.core.reference`.

    Their bits are the reference's.
    """

    packed: Callable[..., tuple[Array, Any, Any]]
    operand: Callable[..., tuple[Array, Any]]
    fake: Callable[..., Array]
    tensor_amax: Callable[..., Array]


@runtime_checkable
class Fused(Quantizer, Protocol):
    """Fused kernels. Where a program turns out to be for another device, jnp takes their place."""

    #: (shape, dtype, spec, axes, result) -> why the kernels cannot or should not quantize such an
    #: array in what is traced now, in words that end a sentence; None if they do.
    why_not: Callable[..., str | None]


_load: Callable[[], Fused] | None = None


def register_fused(load: Callable[[], Fused]) -> None:
    """Makes fused kernels known; ``load`` is called when an array is first quantized.

    Args:
        load: a function without arguments that returns them, see :class:`Fused`; the last one
            that was registered counts.

    Example:
        >>> def load():
        ...     from my_kernels import quantizer
        ...     return quantizer
        >>> register_fused(load)  # doctest: +SKIP
    """
    global _load
    _load = load
    _loaded.cache_clear()


@functools.cache
def _loaded() -> Any:
    return None if _load is None else _load()


def choose(
    implementation: str,
    shape: tuple[int, ...],
    dtype: Any,
    spec: TensorSpec,
    axes: tuple[int, ...],
    result: str,
) -> bool:
    """Whether fused kernels quantize such an array.

    Args:
        implementation: "auto", "reference" or "fused".
        result: the function that is needed: "packed", "operand" or "fake".

    Raises:
        ValueError: for another implementation, or "fused" where no kernel can do it.

    Example:
        >>> choose("reference", (4, 32), "float32", TensorSpec(), (1,), "packed")
        False
    """
    if implementation not in IMPLEMENTATIONS:
        allowed = ", ".join(map(repr, IMPLEMENTATIONS))
        raise ValueError(f"implementation is {shown(implementation)}; allowed: {allowed}.")
    if implementation == "reference":
        return False
    kernels = _loaded()
    if kernels is None:
        reason = "no fused kernels are registered (import fp4jax.kernels)"
    else:
        reason = kernels.why_not(shape, dtype, spec, axes, result)
    if reason is not None and implementation == "fused":
        raise ValueError(
            f"implementation='fused', but there is no kernel for this: {reason}. Use 'auto', which "
            "takes jax.numpy here, with the same result."
        )
    return reason is None


def of(fused: bool) -> Quantizer:
    """The implementation that :func:`choose` chose."""
    return _loaded() if fused else reference
