"""Named arrays and text in a safetensors file: bfloat16 and float8 included, no pickles.

Layout (https://github.com/huggingface/safetensors): length of the header, header as JSON with
dtype, shape and place of each tensor, then their bytes. Needs the package ``safetensors``.
"""

from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from fp4jax.extras import Extra
from fp4jax.files import replacing

_DTYPES = {
    "BOOL": np.dtype(bool),
    "U8": np.dtype(np.uint8),
    "I32": np.dtype(np.int32),
    "U32": np.dtype(np.uint32),
    "F8_E4M3": jnp.dtype(jnp.float8_e4m3fn),
    "BF16": jnp.dtype(jnp.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
}


def write(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes a file in one step; an existing one is replaced."""
    with Extra("study"):
        from safetensors.numpy import save

    # Contiguous, and 0-d arrays rather than scalars: the writer takes their memory as it lies.
    data = save({k: np.asarray(v, order="C") for k, v in arrays.items()}, metadata=dict(metadata))
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and the metadata.

    Raises:
        ValueError: no safetensors file, or one that is damaged.
        OSError: it cannot be read.
        ModuleNotFoundError: the package safetensors is not installed.
    """
    with Extra("study"):
        import safetensors

    # Beside the header, which deserialize checks, it leaves out the metadata.
    metadata = read_metadata(path)
    try:
        tensors = safetensors.deserialize(path.read_bytes())
        return {
            name: np.frombuffer(bytes(t["data"]), _DTYPES[t["dtype"]]).reshape(t["shape"])
            for name, t in tensors
        }, metadata
    except (safetensors.SafetensorError, KeyError) as error:
        raise _damaged(path, error) from error


def read_metadata(path: Path) -> dict[str, str]:
    """The text in a file, without its tensors. Raises as :func:`read`."""
    with Extra("study"):
        import safetensors

    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file.")
    try:
        with safetensors.safe_open(path, framework="np") as file:
            return file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is no safetensors file, or it is damaged: {error}.")
