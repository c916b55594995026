"""Products of arrays or QTensors with QTensors, and the choice of who computes them."""

from fp4jax.kernels.scaled_matmul.api import explain as explain, scaled_matmul as scaled_matmul
from fp4jax.kernels.scaled_matmul.base import decode as decode
from fp4jax.kernels.scaled_matmul.operands import Decoded as Decoded
