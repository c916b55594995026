"""Segmentation networks in Flax NNX, by name and scale; none of them knows of quantization."""

from fp4jax.models.multiplications import macs as macs
from fp4jax.models.registry import (
    attends as attends,
    create as create,
    default_scale as default_scale,
    names as names,
    options as options,
    parse_options as parse_options,
    register as register,
    resolved_options as resolved_options,
    scales as scales,
    spatial_dims as spatial_dims,
)
from fp4jax.models.torch_weights import (
    load_torch as load_torch,
    to_torch as to_torch,
    torch_names as torch_names,
)
from fp4jax.models.typed_options import Option as Option
from fp4jax.models.weight_files import read_weights as read_weights
