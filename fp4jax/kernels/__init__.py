"""GPU kernels and what chooses between them; every one has a reference that runs anywhere.

y = fp4jax.kernels.scaled_matmul(a, b)     a @ b with b, or both, in 4 bits
print(fp4jax.kernels.explain(a, b))        which implementation that takes, and why

q = fp4jax.quantize(x, spec)               by fused kernels, where there are some
print(fp4jax.kernels.explain_quantize(x, spec))

Recipes use the fused quantizer, too; FP4JAX_FUSED_QUANTIZER=0 turns it off. Importing this
package registers it, and imports no Pallas: that is done where a kernel is needed.
"""

import importlib
from typing import TYPE_CHECKING, Any

from fp4jax.core.implementations import register_fused
from fp4jax.core.quantizer import fake_quantize as fake_quantize, quantize as quantize

if TYPE_CHECKING:
    from fp4jax.kernels.block_scaled_matmul.api import (
        explain as explain,
        scaled_matmul as scaled_matmul,
    )
    from fp4jax.kernels.block_scaled_matmul.base import decode as decode
    from fp4jax.kernels.block_scaled_matmul.operands import Decoded as Decoded
    from fp4jax.kernels.fused_quantizer.dispatch import explain_quantize as explain_quantize

#: Name -> module, imported on first use.
_MODULES = {
    "Decoded": "block_scaled_matmul.operands",
    "decode": "block_scaled_matmul.base",
    "explain": "block_scaled_matmul.api",
    "explain_quantize": "fused_quantizer.dispatch",
    "scaled_matmul": "block_scaled_matmul.api",
}


def _module(name: str) -> Any:
    return importlib.import_module(f"fp4jax.kernels.{name}")


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'fp4jax.kernels' has no attribute {name!r}")
    return getattr(_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*_MODULES, "fake_quantize", "quantize"]


register_fused(lambda: _module("fused_quantizer.dispatch"))
