"""dot_general with a packed right operand."""

import dataclasses
import math
from typing import Any

from fp4jax.core.qtensor import QTensor
from fp4jax.core.typing import Array
from fp4jax.kernels import Decoded
from fp4jax.ops.gemm import Operand
from fp4jax.packed.matmul import X_AXES, matmul, plain_matmul, precision_of, quantized_rows
from fp4jax.packed.product import Product


@dataclasses.dataclass(frozen=True)
class Dot(Product):
    """x (..., k...) and w (*batch, k, n), after x's dimensions are put in order."""

    # batch, free, contracted dimensions of x
    order: tuple[int, ...]
    # (b,), or () if there are no batch dimensions
    batch: tuple[int, ...]
    rows_and_k: tuple[int, int]
    # of the result
    shape: tuple[int, ...]

    axes = X_AXES

    @classmethod
    def of(cls, x: Any, kernel: Any, dimension_numbers: Any, **options: Any) -> "Dot":
        """From what a layer calls ``lax.dot_general`` with.

        Raises:
            ValueError: dimensions of the kernel in another order than (*batch, *in, *out).
        """
        (contracted, w_contracted), (batch, w_batch) = (
            tuple(tuple(int(d) for d in dims) for dims in both) for both in dimension_numbers
        )
        inner = len(batch) + len(contracted)
        if w_batch + w_contracted != tuple(range(inner)):
            raise ValueError(
                f"dimension_numbers are {dimension_numbers}; packed kernels are (*batch, *in, *out)"
                " and contracted over all of *in."
            )
        free = tuple(d for d in range(x.ndim) if d not in batch + contracted)
        size = lambda dims: math.prod(x.shape[d] for d in dims)  # noqa: E731
        return cls(
            **options,
            order=batch + free + contracted,
            batch=(size(batch),) if batch else (),
            rows_and_k=(size(free), size(contracted)),
            shape=tuple(x.shape[d] for d in batch + free) + kernel.shape[inner:],
        )

    def prepare(self, x: Array) -> Array:
        return x.transpose(self.order).reshape(*self.batch, *self.rows_and_k)

    def quantize(self, x: Array, amax: Array | None) -> Operand | QTensor:
        return quantized_rows(x, self.spec, amax)

    def multiply(self, x: Any, w: QTensor | Decoded, *, plain: bool = False) -> Array:
        if plain or isinstance(w, Decoded):
            precision = self.precision if plain else precision_of(x)
            return plain_matmul(x, w, self.out_dtype, precision).reshape(self.shape)
        return matmul(x, w, self.out_dtype).reshape(self.shape)
