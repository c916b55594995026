"""GPU kernels and what chooses between them; every one has a reference that runs anywhere.

y = fp4jax.kernels.scaled_matmul(a, b)     a @ b with b, or both, in 4 bits
print(fp4jax.kernels.explain(a, b))        which implementation that takes, and why
"""

from fp4jax.kernels.scaled_matmul.api import explain as explain, scaled_matmul as scaled_matmul
from fp4jax.kernels.scaled_matmul.base import decode as decode
from fp4jax.kernels.scaled_matmul.operands import Decoded as Decoded
