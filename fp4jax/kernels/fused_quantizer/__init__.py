"""The fused quantizer: see api.py for what it does, dispatch.py for when it is used."""

from fp4jax.kernels.fused_quantizer.api import (
    explain_quantize as explain_quantize,
    fake_quantize as fake_quantize,
    quantize as quantize,
)
from fp4jax.kernels.fused_quantizer.dispatch import switch as switch
