"""y = x w for packed w: differentiable in x, refused in w."""

import abc
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from fp4jax.core import exact, hadamard
from fp4jax.core.qtensor import QTensor
from fp4jax.core.spec import TensorSpec
from fp4jax.core.typing import Array
from fp4jax.kernels import Decoded
from fp4jax.ops.gemm import BlockAxes, Operand
from fp4jax.packed.matmul import quantized


@dataclasses.dataclass(frozen=True)
class Product(abc.ABC):
    """A hashable description of how x and the packed w are multiplied.

    ``prepare`` brings x into the form that is quantized along ``axes``; ``multiply`` takes it from
    there, linear in x. With ``plain`` it uses nothing but differentiable operations of JAX.
    """

    # how x is quantized; None: as it is
    spec: TensorSpec | None
    # whether w is rotated
    hadamard: bool
    out_dtype: Any
    precision: Any

    axes = BlockAxes(contracted=-1, tile=None)

    @abc.abstractmethod
    def prepare(self, x: Array) -> Array:
        """x as it is quantized along ``axes``."""

    def quantize(self, x: Array, amax: Array | None) -> Any:
        """What :meth:`multiply` takes; with a static amax that of x."""
        return quantized(x, self.spec, self.axes, amax)

    @abc.abstractmethod
    def multiply(self, x: Any, w: QTensor | Decoded, *, plain: bool = False) -> Array:
        """The product of what :meth:`quantize` returned."""

    def __call__(self, x: Array, w: QTensor | Decoded, amax: Array | None = None) -> Array:
        """The product; its gradient with respect to x passes straight through the rounding.

        Args:
            x: the activations.
            w: the packed kernel, or what it decodes to.
            amax: of x, for a spec with a static one.
        """
        return _jitted(self, x, w, amax)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _product(plan: Product, x: Array, w: QTensor | Decoded, amax: Array | None) -> Array:
    with jax.named_scope("fp4_packed"):
        return plan.multiply(plan.quantize(plan.prepare(x), amax), _opaque(w))


def _jvp(plan: Product, primals: tuple[Array, Any, Any], tangents: tuple[Any, Any, Any]):
    (x, w, amax), (dx, dw, _) = primals, tangents
    of_values = (dw.values, dw.scale) if isinstance(w, Decoded) else (dw.block_scales, dw.amax)
    if not all(isinstance(t, SymbolicZero) for t in of_values):
        raise ValueError(
            "packed weights cannot be trained, but a gradient with respect to them was asked for. "
            "Train the model that fp4jax.nnx.pack was given, then pack it again; differentiate a "
            "packed model with respect to its inputs or its nnx.Param variables only."
        )
    y = _product(plan, x, w, amax)
    if isinstance(dx, SymbolicZero):
        return y, jnp.zeros_like(y)
    dx = plan.prepare(dx).astype(jnp.float32)
    if plan.hadamard:
        dx = hadamard.random_hadamard(dx, plan.axes.contracted % dx.ndim)
    return y, plan.multiply(Operand(dx, None), _opaque(w), plain=True)


def _opaque(w: QTensor | Decoded) -> QTensor | Decoded:
    """w behind a barrier, for programs that hold a model as a constant.

    XLA would decode such weights while it compiles, back to float arrays in the program; and up
    to jaxlib 0.10 it folds the bitcast of bytes to 4-bit codes to wrong ones.
    """
    return exact.barrier(w)


_product.defjvp(_jvp, symbolic_zeros=True)
# Eager calls are one program, too; inlined into a surrounding jit.
_jitted = jax.jit(_product, static_argnums=0, inline=True)
