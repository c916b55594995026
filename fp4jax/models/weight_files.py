"""read_weights: the arrays of a published checkpoint, without running code that it contains."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from fp4jax.extras import Extra

# Where training scripts put the weights beside other things, and what wrappers put before names.
_CONTAINERS = ("state_dict", "model_state_dict", "network_weights", "model", "net")
_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.")

_SUFFIXES = ".safetensors, .npz, .pt, .pth, .ckpt"
_CONVERT = (
    "where it can be loaded, save its weights as safetensors: "
    "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
)


def read_weights(path: str | Path) -> dict[str, np.ndarray]:
    """Arrays under their torch names, as :func:`fp4jax.models.load_torch` takes them.

    Containers ("state_dict", "model" ...) are opened and a prefix that all names share ("module.",
    "model." ...) is removed. Names of MONAI's ``UNet`` begin with "model." themselves: in front of
    a number it stays.

    Args:
        path: a file that ends in ``.safetensors`` (needs the package safetensors), ``.npz``, or
            ``.pt``, ``.pth``, ``.ckpt`` (need torch, whose ``weights_only`` reader refuses all
            objects but tensors and plain containers).

    Returns:
        Arrays in the file's dtypes; bfloat16 of torch's becomes float32.

    Raises:
        ValueError: another kind of file, one that is damaged or contains objects, one without
            arrays, or one of torch's where torch is not installed.
        ModuleNotFoundError: the package safetensors is not installed.
        OSError: it cannot be read.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "weights.npz"
        >>> np.savez(path, **{"module.bias": np.zeros(3)})
        >>> read_weights(path)
        {'bias': array([0., 0., 0.])}
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file.")
    readers = {".safetensors": _safetensors, ".npz": _npz}
    reader = readers.get(path.suffix, _torch)
    if reader is _torch and path.suffix not in (".pt", ".pth", ".ckpt"):
        raise ValueError(f"{path} is no file of weights that can be read; allowed: {_SUFFIXES}.")
    arrays = _arrays(reader(path))
    if not arrays:
        raise ValueError(f"{path} contains no arrays; give a state dict, names and tensors.")
    return _unwrapped(arrays)


def _safetensors(path: Path) -> Mapping[str, Any]:
    with Extra("study"):
        import safetensors
    dtypes = {
        **{f"F{8 * n}": np.dtype(f"f{n}") for n in (2, 4, 8)},
        **{f"I{8 * n}": np.dtype(f"i{n}") for n in (1, 2, 4, 8)},
        **{f"U{8 * n}": np.dtype(f"u{n}") for n in (1, 2, 4, 8)},
        "BOOL": np.dtype(bool),
        "BF16": np.dtype(ml_dtypes.bfloat16),
    }
    try:
        return {
            name: np.frombuffer(bytes(t["data"]), dtypes[t["dtype"]]).reshape(t["shape"])
            for name, t in safetensors.deserialize(path.read_bytes())
        }
    except (safetensors.SafetensorError, KeyError) as error:
        raise ValueError(
            f"{path} is no safetensors file of weights, or it is damaged: {_line(error)}."
        ) from error


def _npz(path: Path) -> Mapping[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(
            f"{path} is no npz file of plain arrays, or it is damaged: {_line(error)}."
        ) from error


def _torch(path: Path) -> Any:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(f"{path} needs torch, which is not installed; {_CONVERT}.") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged, or contains other objects than tensors, which would have to be "
            f"run as code ({_line(error)}); {_CONVERT}."
        ) from error


def _arrays(content: Any) -> dict[str, np.ndarray]:
    """The tensors of the innermost container, as arrays."""
    while isinstance(content, Mapping):
        inner = [content[k] for k in _CONTAINERS if isinstance(content.get(k), Mapping)]
        if not inner:
            break
        content = inner[0]
    if not isinstance(content, Mapping):
        return {}
    arrays = {str(name): _array(value) for name, value in content.items()}
    return {name: value for name, value in arrays.items() if value is not None}


def _array(value: Any) -> np.ndarray | None:
    """An array or a tensor as an array, None for anything else."""
    if isinstance(value, np.ndarray):
        return value
    if not hasattr(value, "detach"):
        return None
    tensor = value.detach()
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()


def _unwrapped(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without the prefixes that all names have."""
    while True:
        for prefix in _WRAPPERS:
            rest = [name.removeprefix(prefix) for name in arrays]
            wrapped = all(name.startswith(prefix) for name in arrays)
            if wrapped and not any(name[:1].isdigit() or not name for name in rest):
                arrays = dict(zip(rest, arrays.values(), strict=True))
                break
        else:
            return arrays


def _line(error: Exception) -> str:
    """The first sentence or so of a message."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200].rstrip(".")
