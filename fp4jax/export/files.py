"""save_packed and load_packed: a packed model as one safetensors file.

Every variable of the model is a tensor, named by its dotted path: of a packed kernel ``.codes``
(uint8), ``.block_scales`` (F8_E4M3) and ``.amax`` (F32, tensor scale = amax / bound); the rest in
the dtype it is stored in. The metadata say which layers hold which recipe and, for models of
:mod:`fp4jax.models`, how to make the model.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from fp4jax import nnx as fp4nnx, packed
from fp4jax.core.spec import TensorSpec
from fp4jax.export import tensors
from fp4jax.export.about import About
from fp4jax.ops.recipe import Recipe
from fp4jax.packed.ops import PackedOp
from fp4jax.packed.pack import SLOTS, pack_layer
from fp4jax.version import __version__

_FORMAT = "fp4jax-packed-1"


def save_packed(path: str | Path, model: nnx.Module, about: About | None = None) -> Path:
    """Writes a packed model; an existing file is replaced, in one step.

    Args:
        path: of the file, by custom with the ending ``.safetensors``.
        model: what :func:`fp4jax.nnx.pack` returned.
        about: what makes the model, so that the file can be loaded without a template.

    Raises:
        ValueError: a model that is not packed, or whose variables are shapes only.
        OSError: it cannot be written.
    """
    ops = {path_: op for path_, _, _, op in _operations(model)}
    if not any(isinstance(op, PackedOp) for op in ops.values()):
        raise ValueError(
            f"{type(model).__name__} is not packed; save what fp4jax.nnx.pack(model) returns."
        )
    recipes = list(dict.fromkeys(op.recipe for op in ops.values()))
    stored = {str(v.get_raw_value().dtype) for _, v in _flat(model) if type(v) is packed.Stored}
    metadata = {
        "format": _FORMAT,
        "fp4jax": __version__,
        "recipes": json.dumps([_recipe_to_json(recipe) for recipe in recipes]),
        "layers": json.dumps({layer: recipes.index(op.recipe) for layer, op in ops.items()}),
        "rest_dtype": next(iter(stored), "float32"),
    }
    if about is not None:
        metadata["about"] = about.to_json()
    arrays = {_name(where): v.get_raw_value() for where, v in _flat(model)}
    if abstract := [name for name, value in arrays.items() if not hasattr(value, "__array__")]:
        raise ValueError(f"{abstract[0]} is a shape without values; pack a model that has weights.")
    path = Path(path)
    tensors.write(path, {name: np.asarray(value) for name, value in arrays.items()}, metadata)
    return path


def load_packed(path: str | Path, template: nnx.Module | About | None = None) -> nnx.Module:
    """The model that :func:`save_packed` wrote, in evaluation mode.

    Args:
        path: of the file.
        template: a model of the same kind, with weights or as ``nnx.eval_shape`` makes it, whose
            layers' recipes do not matter; or what makes one. Default: what the file says.

    Returns:
        A new model. Its random streams, if any, are the template's.

    Raises:
        ValueError: a damaged file, one of another kind, or a template that does not fit it.
        OSError: it cannot be read.

    Example:
        >>> import tempfile
        >>> layer = fp4nnx.apply_recipe(nnx.Linear(32, 8, rngs=nnx.Rngs(0)), "full", verbose=False)
        >>> packed_layer = fp4nnx.pack(layer, verbose=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save_packed(f"{folder}/layer.safetensors", packed_layer)
        ...     same = load_packed(path, nnx.Linear(32, 8, rngs=nnx.Rngs(1)))
        >>> bool((same(jnp.ones((1, 32))) == packed_layer(jnp.ones((1, 32)))).all())
        True
    """
    path = Path(path)
    arrays, metadata = tensors.read(path)
    _check_format(path, metadata)
    try:
        recipes = [_recipe_from_json(record) for record in json.loads(metadata["recipes"])]
        layers = {name: recipes[i] for name, i in json.loads(metadata["layers"]).items()}
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: its metadata are incomplete ({error}).") from error
    template = template or describe(path)
    if isinstance(template, About):
        template = nnx.eval_shape(template.create)
    model = _prepared(path, template, layers, metadata.get("rest_dtype", "float32"))
    graph, state, random = nnx.split(model, nnx.Not(nnx.RngState), ...)
    flat = nnx.to_flat_state(state)
    loaded = [(where, v.replace(_fitting(path, _name(where), v, arrays))) for where, v in flat]
    if arrays:
        raise ValueError(f"{path} has {next(iter(arrays))}, which the model lacks.")
    return nnx.merge(graph, nnx.from_flat_state(loaded), random)


def describe(path: str | Path) -> About:
    """What a file says about its model.

    Raises:
        ValueError: it says nothing, or is no packed model.
    """
    path = Path(path)
    metadata = tensors.read_metadata(path)
    _check_format(path, metadata)
    if "about" not in metadata:
        raise ValueError(
            f"{path} does not say how to make its model; pass load_packed a template of it."
        )
    try:
        return About.from_json(metadata["about"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} describes no model: {error}.") from error


def _check_format(path: Path, metadata: dict[str, str]) -> None:
    found = metadata.get("format")
    if found != _FORMAT:
        raise ValueError(
            f"{path} has the format {found!r}, not {_FORMAT!r}; packed models are written by "
            "fp4jax.export.save_packed."
        )


def _prepared(
    path: Path, template: nnx.Module, layers: dict[str, Recipe], rest_dtype: str
) -> nnx.Module:
    """A copy of the template that is packed as the file is."""
    model = nnx.clone(template)
    if not any(isinstance(op, PackedOp) for *_, op in _operations(model)):
        fp4nnx.apply_recipe(model, "baseline", verbose=False)
        found = {name: (layer, slot) for name, layer, slot, _ in _operations(model)}
        for name, recipe in layers.items():
            if name not in found:
                raise ValueError(f"{path} has a layer {name!r}, which the model lacks.")
            pack_layer(*found[name], recipe)
        packed.narrow(model, jnp.dtype(rest_dtype))
    model.eval()
    return model


def _fitting(path: Path, name: str, variable: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The array of that name, taken out of ``arrays``."""
    if name not in arrays:
        raise ValueError(f"{path} lacks {name}; it is of another model.")
    array, expected = arrays.pop(name), variable.get_raw_value()
    if (array.shape, array.dtype) != (expected.shape, expected.dtype):
        raise ValueError(
            f"{path}: {name} is {array.dtype} {array.shape}, the model needs {expected.dtype} "
            f"{expected.shape}."
        )
    return jnp.asarray(array)


def _operations(model: nnx.Module):
    """(dotted path, layer, slot, operation) of all layers that hold one."""
    for path, layer in list(nnx.iter_modules(model)):
        for slot in SLOTS:
            op = getattr(layer, slot, None)
            if isinstance(op, fp4nnx.Op):
                yield ".".join(map(str, path)), layer, slot, op


def _flat(model: nnx.Module) -> list[tuple[Any, Any]]:
    return list(nnx.to_flat_state(nnx.state(model, nnx.Not(nnx.RngState))))


def _name(path: Any) -> str:
    return ".".join(map(str, path))


def _recipe_to_json(recipe: Recipe) -> dict[str, Any]:
    specs = [None if spec is None else dataclasses.asdict(spec) for spec in recipe.fprop]
    return {"name": recipe.name, "fprop": specs}


def _recipe_from_json(record: dict[str, Any]) -> Recipe:
    specs = record["fprop"]
    x, w = (s and TensorSpec(**{**s, "block": tuple(s["block"])}) for s in specs)
    return Recipe(name=record["name"], fprop=(x, w))
