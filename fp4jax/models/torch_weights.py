"""Weights to and from torch: names and layouts of parameters, by type of layer.

A module's path in the Flax model is its torch name (``blocks.0.attn.qkv``). A model that differs
has an attribute ``torch_names``: pairs (regular expression, replacement) that turn the dotted path
of a variable into its torch name, applied in order with ``re.sub`` (so a replacement may be a
function of the match).
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from fp4jax.models.layers import Downsample, Upsample
from fp4jax.models.norms import PReLU


class Rule(NamedTuple):
    """One variable of a layer: its torch name and how torch lays it out."""

    torch_name: str
    to_torch: Callable[[np.ndarray, Any], np.ndarray] = lambda a, layer: a
    from_torch: Callable[[np.ndarray, Any], np.ndarray] = lambda a, layer: a


def _taps(a: np.ndarray) -> tuple[int, ...]:
    return tuple(range(a.ndim - 2))


def _conv_to_torch(a: np.ndarray, layer: Any) -> np.ndarray:
    """(*taps, in, out) -> (out, in, *taps)."""
    return a.transpose(-1, -2, *_taps(a))


def _conv_from_torch(a: np.ndarray, layer: Any) -> np.ndarray:
    return a.transpose(*range(2, a.ndim), 1, 0)


def _transposed_to_torch(a: np.ndarray, layer: Any) -> np.ndarray:
    """(*taps, in, out), flipped, -> (in, out, *taps); Flax with transpose_kernel has torch's."""
    if layer.transpose_kernel:
        return a.transpose(-1, -2, *_taps(a))
    return np.flip(a, _taps(a)).transpose(-2, -1, *_taps(a))


def _transposed_from_torch(a: np.ndarray, layer: Any) -> np.ndarray:
    if layer.transpose_kernel:
        return a.transpose(*range(2, a.ndim), 1, 0)
    a = a.transpose(*range(2, a.ndim), 0, 1)
    return np.flip(a, _taps(a))


def _patches_to_torch(a: np.ndarray, layer: Any) -> np.ndarray:
    """(p**d * in, out) -> (out, in, *p)."""
    d = layer.spatial_dims
    return a.reshape(*(layer.patch,) * d, -1, a.shape[-1]).transpose(d + 1, d, *range(d))


def _patches_from_torch(a: np.ndarray, layer: Any) -> np.ndarray:
    return a.transpose(*range(2, a.ndim), 1, 0).reshape(-1, a.shape[0])


def _upsample_to_torch(a: np.ndarray, layer: Any) -> np.ndarray:
    """(*ones, in, p**d * out) -> (in, out, *p)."""
    d = a.ndim - 2
    split = a.reshape(a.shape[-2], *(layer.patch,) * d, -1)
    return split.transpose(0, d + 1, *range(1, d + 1))


def _upsample_from_torch(a: np.ndarray, layer: Any) -> np.ndarray:
    last = a.transpose(0, *range(2, a.ndim), 1)
    return last.reshape(*(1,) * (a.ndim - 2), a.shape[0], -1)


def _swap(a: np.ndarray, layer: Any) -> np.ndarray:
    return a.T


_BIAS = Rule("bias")
_NORM = {"scale": Rule("weight"), "bias": _BIAS}

#: Variables by type of layer; the first type that fits counts. Variables without a rule, such as
#: a model's own tables, have the same name and layout on both sides.
RULES: dict[type[nnx.Module], dict[str, Rule]] = {
    Downsample: {"kernel": Rule("weight", _patches_to_torch, _patches_from_torch), "bias": _BIAS},
    Upsample: {"kernel": Rule("weight", _upsample_to_torch, _upsample_from_torch), "bias": _BIAS},
    nnx.Linear: {"kernel": Rule("weight", _swap, _swap), "bias": _BIAS},
    nnx.Conv: {"kernel": Rule("weight", _conv_to_torch, _conv_from_torch), "bias": _BIAS},
    nnx.ConvTranspose: {
        "kernel": Rule("weight", _transposed_to_torch, _transposed_from_torch),
        "bias": _BIAS,
    },
    nnx.BatchNorm: {**_NORM, "mean": Rule("running_mean"), "var": Rule("running_var")},
    nnx.LayerNorm: _NORM,
    nnx.GroupNorm: _NORM,
    nnx.InstanceNorm: _NORM,
    PReLU: {"slope": Rule("weight")},
}

# Buffers of torch modules that are no weights: counters and tables derived from the geometry.
_DERIVED = ("num_batches_tracked", "relative_position_index", "attn_mask")


def load_torch(model: nnx.Module, params: Mapping[str, Any]) -> nnx.Module:
    """Sets all parameters and batch-norm statistics from arrays under their torch names.

    Args:
        model: changed in place. A recipe may have been applied to it.
        params: arrays in torch's layout: Linear (out, in), Conv (out, in, *taps), ConvTranspose
            (in, out, *taps); ``running_mean`` and ``running_var`` among them. Names without
            "param." or "module." in front. Torch's counters of batches and index tables are
            ignored.

    Returns:
        The model.

    Raises:
        ValueError: if names are missing, unexpected, or have another shape; lists all of them,
            and the model is as it was. Also for a packed model.

    Example:
        >>> from flax import nnx
        >>> layer = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
        >>> load_torch(layer, {"weight": np.ones((3, 2)), "bias": np.zeros(3)}).kernel.shape
        (2, 3)
    """
    slots = {slot.name: slot for slot in _slots(model)}
    given = {k: np.asarray(v) for k, v in params.items() if k.rpartition(".")[2] not in _DERIVED}
    problems = [f"missing: {name}" for name in slots if name not in given]
    problems += [f"unexpected: {name}" for name in given if name not in slots]
    for name in slots.keys() & given.keys():
        expected, got = slots[name].torch_shape, given[name].shape
        if expected != got:
            problems.append(f"{name} has shape {got}, the model needs {expected}")
    if problems:
        raise ValueError(
            f"these weights do not fit {type(model).__name__} (create the model with the sizes "
            f"they were trained with, and strip prefixes of names): {'; '.join(sorted(problems))}."
        )
    for name, slot in slots.items():
        variable = slot.variable
        values = slot.rule.from_torch(given[name], slot.layer)
        # A copy: on CPU the model would otherwise see what happens to the caller's array.
        variable.set_value(jnp.array(values, variable.get_value().dtype))
    return model


def to_torch(model: nnx.Module) -> dict[str, np.ndarray]:
    """The inverse of :func:`load_torch`: all parameters and statistics under their torch names.

    Raises:
        ValueError: a packed model, whose float kernels are gone.

    Example:
        >>> from flax import nnx
        >>> list(to_torch(nnx.LayerNorm(4, rngs=nnx.Rngs(0))))
        ['bias', 'weight']
    """
    return {
        slot.name: np.ascontiguousarray(
            slot.rule.to_torch(np.asarray(slot.variable.get_value()), slot.layer)
        )
        for slot in _slots(model)
    }


def torch_names(model: nnx.Module) -> dict[str, str]:
    """The torch names of all parameters and statistics by their dotted paths in the Flax model.

    Raises:
        ValueError: a packed model.

    Example:
        >>> from flax import nnx
        >>> torch_names(nnx.LayerNorm(4, rngs=nnx.Rngs(0)))
        {'bias': 'bias', 'scale': 'weight'}
    """
    return {slot.path: slot.name for slot in _slots(model)}


class _Slot(NamedTuple):
    # dotted, in the Flax model
    path: str
    name: str
    variable: Any
    rule: Rule
    layer: Any

    @property
    def torch_shape(self) -> tuple[int, ...]:
        # An array without memory that only has a shape.
        empty = np.broadcast_to(np.float32(0), self.variable.get_value().shape)
        return self.rule.to_torch(empty, self.layer).shape


def _slots(model: nnx.Module) -> Iterator[_Slot]:
    """All parameters and statistics, with the layer that each belongs to."""
    renames = getattr(model, "torch_names", ())
    for path, layer in nnx.iter_modules(model):
        rules = next((r for kind, r in RULES.items() if isinstance(layer, kind)), {})
        for leaf in rules:
            if isinstance(getattr(layer, leaf, None), nnx.Module):
                raise ValueError(
                    f"{'.'.join(map(str, path)) or 'the model'} is a packed layer: it holds 4-bit "
                    f"codes instead of a float {leaf}, which torch's names have no place for. "
                    "Convert the trained model, before fp4jax.nnx.pack; a packed one is written by "
                    "fp4jax.nnx.save_packed."
                )
        for leaf, variable in sorted(vars(layer).items()):
            if not isinstance(variable, (nnx.Param, nnx.BatchStat)):
                continue
            rule = rules.get(leaf, Rule(leaf))
            name = ".".join((*map(str, path), rule.torch_name))
            for pattern, replacement in renames:
                name = re.sub(pattern, replacement, name)
            yield _Slot(".".join((*map(str, path), leaf)), name, variable, rule, layer)
