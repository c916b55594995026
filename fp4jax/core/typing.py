"""Array annotations: jaxtyping where it is installed, plain arrays where it is not.

The library itself needs only JAX and NumPy; shapes in annotations are documentation there.
The tests install jaxtyping and beartype and check every annotated call.
Dimension names used throughout: b batch, m rows, k contracted, n columns, c channels, h w d space.
"""

from typing import TYPE_CHECKING

from jax import Array
from jax.typing import ArrayLike, DTypeLike

if TYPE_CHECKING:
    from jaxtyping import Float, Integer, Shaped, UInt8
else:
    try:
        from jaxtyping import Float, Integer, Shaped, UInt8
    except ImportError:

        class _Unchecked:
            """Accepts the same subscripts as jaxtyping and means: any array."""

            def __class_getitem__(cls, item):
                return item[0]

        Float = Integer = Shaped = UInt8 = _Unchecked

__all__ = ["Array", "ArrayLike", "DTypeLike", "Float", "Integer", "Shaped", "UInt8"]
