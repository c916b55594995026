"""4-bit storage: packed kernels, their products, and files of them.

What turns a whole model into a packed one is :func:`fp4jax.nnx.pack`.
"""

from fp4jax.packed.file_format import (
    LayerRecord as LayerRecord,
    PackedModel as PackedModel,
    read_model as read_model,
    read_records as read_records,
    write_model as write_model,
)
from fp4jax.packed.kernel import Packed as Packed, PackedKernel as PackedKernel
from fp4jax.packed.rest import Stored as Stored, narrow as narrow
from fp4jax.packed.sizes import Size as Size, size as size
