"""fp4jax: NVFP4 quantization-aware training in JAX, TransformerEngine's bits on any machine."""

import importlib
from typing import TYPE_CHECKING

from fp4jax.conv import (
    conv_general_dilated as conv_general_dilated,
    conv_transpose as conv_transpose,
)
from fp4jax.dot_general import dot_general as dot_general
from fp4jax.hadamard import (
    inverse_random_hadamard as inverse_random_hadamard,
    random_hadamard as random_hadamard,
)
from fp4jax.qtensor import QTensor as QTensor
from fp4jax.quantize import fake_quantize as fake_quantize, quantize as quantize
from fp4jax.recipe import Recipe as Recipe, get_recipe as get_recipe, recipes as recipes
from fp4jax.spec import TensorSpec as TensorSpec

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
