"""fp4jax: NVFP4 quantization-aware training in JAX, TransformerEngine's bits on any machine."""

import importlib
from typing import TYPE_CHECKING

from fp4jax import kernels as kernels
from fp4jax.core.hadamard import (
    inverse_random_hadamard as inverse_random_hadamard,
    random_hadamard as random_hadamard,
)
from fp4jax.core.qtensor import QTensor as QTensor
from fp4jax.core.quantizer import fake_quantize as fake_quantize, quantize as quantize
from fp4jax.core.spec import TensorSpec as TensorSpec
from fp4jax.ops.convolution.quantized import (
    conv_general_dilated as conv_general_dilated,
    conv_transpose as conv_transpose,
)
from fp4jax.ops.dot import dot_general as dot_general
from fp4jax.ops.recipe import Recipe as Recipe, get_recipe as get_recipe, recipes as recipes

if TYPE_CHECKING:
    from fp4jax import (
        data as data,
        linen as linen,
        losses as losses,
        metrics as metrics,
        models as models,
        nnx as nnx,
        train as train,
    )

__version__ = "0.1.0"

_SUBPACKAGES = ("data", "linen", "losses", "metrics", "models", "nnx", "train")


def __getattr__(name: str):
    # The quantizers are imported without Flax and all that is built on it.
    if name in _SUBPACKAGES:
        return importlib.import_module(f"fp4jax.{name}")
    raise AttributeError(f"module 'fp4jax' has no attribute {name!r}")
