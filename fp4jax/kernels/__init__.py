"""GPU kernels and what chooses between them; every one has a reference that runs anywhere.

y = fp4jax.kernels.scaled_matmul(a, b)     a @ b with b, or both, in 4 bits
print(fp4jax.kernels.explain(a, b))        which implementation that takes, and why

q = fp4jax.kernels.quantize(x, spec)       fp4jax.quantize by fused kernels, where there are some
y = fp4jax.kernels.fake_quantize(x, spec)  fp4jax.fake_quantize, likewise
print(fp4jax.kernels.explain_quantize(x, spec))

Recipes use the fused quantizer by themselves; FP4JAX_FUSED_QUANTIZER=0 turns it off.
"""

from fp4jax.kernels.block_scaled_matmul.api import (
    explain as explain,
    scaled_matmul as scaled_matmul,
)
from fp4jax.kernels.block_scaled_matmul.base import decode as decode
from fp4jax.kernels.block_scaled_matmul.operands import Decoded as Decoded
from fp4jax.kernels.fused_quantizer.api import (
    explain_quantize as explain_quantize,
    fake_quantize as fake_quantize,
    quantize as quantize,
)
