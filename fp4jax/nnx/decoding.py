"""decode(packed): weights decoded once per model, for machines without FP4 units."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from fp4jax.core.typing import DTypeLike
from fp4jax.kernels import Decoded
from fp4jax.kernels.block_scaled_matmul.checks import check_decoded_dtype
from fp4jax.nnx.keys import Model
from fp4jax.nnx.packed_files import check_codes, is_packed
from fp4jax.nnx.slots import layers
from fp4jax.packed.kernel import DecodedKernel, PackedKernel
from fp4jax.packed.matmul import kernel_operand


def decode(model: Model, *, dtype: DTypeLike | None = None) -> Model:
    """A packed model that computes the same without decoding its weights in each call.

    A machine without FP4 units decodes packed weights on the way into every product. Here that is
    done once, for 2 or 4 bytes per weight in place of 0.5625: code value x block scale, which both
    dtypes hold exactly; tensor scales, rotations and the quantizers of x stay where they were.
    Outputs are those of the packed model up to the order of float32 sums.

    Args:
        model: what :func:`fp4jax.nnx.pack` or ``load_packed`` returned; it is not changed.
        dtype: of the values: float32 on CPU, which would convert bfloat16 in each call, bfloat16
            elsewhere.

    Returns:
        A new model in evaluation mode, which cannot be saved as a packed one.

    Raises:
        ValueError: a model that is not packed, or decoded already; another dtype.

    Example:
        >>> from fp4jax.nnx import apply_recipe, pack
        >>> packed = pack(apply_recipe(nnx.Linear(32, 16, rngs=nnx.Rngs(0)), "2d+rht"))
        >>> decoded = decode(packed, dtype=jnp.bfloat16)
        >>> x = jnp.arange(64.0).reshape(2, 32)
        >>> bool(jnp.allclose(decoded(x), packed(x), rtol=1e-6))
        True
        >>> decoded.kernel.decoded.get_value().shape, packed.kernel.nbytes
        ((16, 32), 262)
    """
    if dtype is None:
        dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    check_decoded_dtype(dtype)
    if not is_packed(model):
        raise ValueError(
            f"{type(model).__name__} is not packed; decode what fp4jax.nnx.pack(model) returns."
        )
    model = nnx.clone(model)
    check_codes(model)
    found = [layer for layer in layers(model) if isinstance(layer.module.kernel, PackedKernel)]
    if any(
        isinstance(layer.module.kernel.codes.get_value(), jax.ShapeDtypeStruct) for layer in found
    ):
        raise ValueError(
            f"{type(model).__name__} has shapes and no values; decode a packed model that has "
            "weights, as load_packed returns it."
        )
    for layer in found:
        kernel = layer.module.kernel
        values = _decoded(dtype, kernel.amax.get_value().ndim, kernel.values)
        layer.module.kernel = nnx.data(DecodedKernel(values, kernel.shape, kernel.dtype))
    model.eval()
    return model


@functools.partial(jax.jit, static_argnums=(0, 1))
def _decoded(dtype: DTypeLike, stacked: int, matrices) -> Decoded:
    """Of a stack of kernels all."""
    if stacked:
        return jax.vmap(functools.partial(_decoded, dtype, stacked - 1))(matrices)
    values, scale = kernel_operand(matrices)
    return Decoded(values.astype(dtype), scale)
