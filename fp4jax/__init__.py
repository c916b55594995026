"""fp4jax: NVFP4 quantization-aware training in JAX, TransformerEngine's bits on any machine."""

import importlib
from typing import TYPE_CHECKING

from fp4jax import kernels as kernels
from fp4jax.core.grids import Grid
from fp4jax.core.hadamard import inverse_random_hadamard, random_hadamard
from fp4jax.core.number_format import Format, format_names, get_format, register_format
from fp4jax.core.qtensor import QTensor
from fp4jax.core.quantizer import fake_quantize, quantize
from fp4jax.core.spec import TensorSpec
from fp4jax.ops.attention import attention
from fp4jax.ops.attention_recipe import (
    AttentionRecipe,
    attention_recipes,
    get_attention_recipe,
    register_attention_recipe,
)
from fp4jax.ops.convolution.quantized import conv_general_dilated, conv_transpose
from fp4jax.ops.dot import dot_general
from fp4jax.ops.einsum import einsum
from fp4jax.ops.recipe import Recipe, get_recipe, recipes, register_recipe, with_format
from fp4jax.version import __version__ as __version__

if TYPE_CHECKING:
    from fp4jax import (
        analysis as analysis,
        cli as cli,
        core as core,
        data as data,
        deploy as deploy,
        files as files,
        inference as inference,
        kernels as kernels,
        linen as linen,
        losses as losses,
        metrics as metrics,
        models as models,
        nnx as nnx,
        ops as ops,
        packed as packed,
        predict as predict,
        study as study,
        train as train,
    )

__all__ = [
    "AttentionRecipe",
    "Format",
    "Grid",
    "QTensor",
    "Recipe",
    "TensorSpec",
    "attention",
    "attention_recipes",
    "conv_general_dilated",
    "conv_transpose",
    "dot_general",
    "einsum",
    "fake_quantize",
    "format_names",
    "get_attention_recipe",
    "get_format",
    "get_recipe",
    "inverse_random_hadamard",
    "quantize",
    "random_hadamard",
    "recipes",
    "register_attention_recipe",
    "register_format",
    "register_recipe",
    "with_format",
]

_SUBPACKAGES = (
    "analysis",
    "cli",
    "core",
    "data",
    "deploy",
    "files",
    "inference",
    "kernels",
    "linen",
    "losses",
    "metrics",
    "models",
    "nnx",
    "ops",
    "packed",
    "predict",
    "study",
    "track",
    "train",
)


def __getattr__(name: str):
    # On first use, so that the quantizers are imported without Flax and all that is built on it.
    if name in _SUBPACKAGES:
        return importlib.import_module(f"fp4jax.{name}")
    raise AttributeError(f"module 'fp4jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_SUBPACKAGES, "__version__"})
