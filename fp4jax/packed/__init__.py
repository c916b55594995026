"""Packed models: quantized layers that hold 4.5 bits per weight; see :func:`pack`."""

from fp4jax.packed.kernel import Packed as Packed, PackedKernel as PackedKernel
from fp4jax.packed.pack import pack as pack
from fp4jax.packed.rest import Stored as Stored, narrow as narrow
from fp4jax.packed.sizes import Size as Size, size as size
