"""What is not quantized, in fewer bytes: parameters stored as bfloat16 and read as float32."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from fp4jax.core.typing import Array, DTypeLike

#: Layers whose few parameters stay in float32.
NORMS = (nnx.BatchNorm, nnx.LayerNorm, nnx.RMSNorm, nnx.GroupNorm, nnx.InstanceNorm)


class Stored(nnx.Param):
    """A float32 parameter that is stored in a smaller dtype.

    ``variable[...]`` and ``get_value()`` are float32, so that models compute as before; the state
    of the model has the smaller dtype, and so have files.

    Example:
        >>> bias = Stored(jnp.ones(4, jnp.bfloat16))
        >>> bias[...].dtype.name, bias.get_raw_value().dtype.name
        ('float32', 'bfloat16')
    """

    def get_value(self, **options: Any) -> Array:
        value = super().get_value(**options)
        return value.astype(jnp.float32) if isinstance(value, jax.Array) else value


def narrow(model: nnx.Module, dtype: DTypeLike) -> None:
    """Stores the float32 parameters in ``dtype``, in place; norms are left as they are.

    Raises:
        ValueError: for anything but bfloat16, float16 and float32.
    """
    dtype = jnp.dtype(dtype)
    if dtype == jnp.float32:
        return
    if dtype not in (jnp.bfloat16, jnp.float16):
        raise ValueError(
            f"rest_dtype is {dtype}; use bfloat16, or None to leave the parameters as they are."
        )
    stored: dict[int, Stored] = {}
    for _, module in nnx.iter_modules(model):
        if isinstance(module, NORMS):
            continue
        for name, variable in list(vars(module).items()):
            if type(variable) is not nnx.Param or variable.get_value().dtype != jnp.float32:
                continue
            # Layers may share a parameter.
            if id(variable) not in stored:
                stored[id(variable)] = Stored(_cast(variable.get_value(), dtype))
            setattr(module, name, stored[id(variable)])


def _cast(value: Any, dtype: Any) -> Any:
    if isinstance(value, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(value.shape, dtype, sharding=value.sharding)
    return value.astype(dtype)
