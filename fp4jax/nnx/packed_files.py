"""save_packed and load_packed: a packed NNX model as one safetensors file.

Every variable of the model is an array of the file, named by its dotted path, in the dtype that it
is stored in. :mod:`fp4jax.packed.file_format` describes the file.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.nnx.nn.linear import canonicalize_padding

from fp4jax.nnx.applying import apply_recipe
from fp4jax.nnx.attention_slots import attention_slots
from fp4jax.nnx.keys import Model, dotted
from fp4jax.nnx.packed_operations import PackedOp
from fp4jax.nnx.packing import forward_part, pack_attention, pack_layer
from fp4jax.nnx.slots import Layer, layers
from fp4jax.ops.attention_recipe import AttentionRecipe
from fp4jax.packed.file_format import LayerRecord, PackedModel, read_model, write_model
from fp4jax.packed.kernel import DecodedKernel, PackedKernel
from fp4jax.packed.layout import Layout
from fp4jax.packed.rest import Stored, narrow
from fp4jax.packed.stored import StoredMatrix
from fp4jax.version import __version__

_REST = "rest_dtype"
# Attention recipes by path.
_ATTENTION = "attention"


def save_packed(
    path: str | Path, model: nnx.Module, metadata: Mapping[str, str] | None = None
) -> Path:
    """Writes a packed model; an existing file is replaced, in one step.

    Args:
        path: of the file, by custom with the ending ``.safetensors``.
        model: what :func:`fp4jax.nnx.pack` returned.
        metadata: further text for the file, by name, such as how inputs are normalized.

    Returns:
        The path.

    Raises:
        ValueError: a model that is not packed, or whose variables are shapes only.
        OSError: it cannot be written.
    """
    return write_model(path, contents_of(model, metadata))


def contents_of(model: nnx.Module, metadata: Mapping[str, str] | None = None) -> PackedModel:
    """What a file of a packed model holds, as :func:`save_packed` writes it.

    Raises:
        ValueError: as :func:`save_packed`.

    Example:
        >>> from fp4jax.nnx import pack
        >>> packed = pack(apply_recipe(nnx.Linear(32, 8, rngs=nnx.Rngs(0)), "full"))
        >>> sorted(contents_of(packed).arrays)
        ['bias', 'kernel.amax', 'kernel.block_scales', 'kernel.codes']
    """
    check_codes(model)
    records = {layer.path: _record(layer) for layer in layers(model) if layer.operation is not None}
    if not is_packed(model):
        raise ValueError(
            f"{type(model).__name__} is not packed; save what fp4jax.nnx.pack(model) returns."
        )
    stored = {str(v.get_raw_value().dtype) for _, v in _flat(model) if type(v) is Stored}
    arrays = {dotted(where): v.get_raw_value() for where, v in _flat(model)}
    if abstract := [name for name, value in arrays.items() if not hasattr(value, "__array__")]:
        raise ValueError(f"{abstract[0]} is a shape without values; pack a model that has weights.")
    own = {"fp4jax": __version__, _REST: next(iter(stored), "float32")}
    within = {slot.path: slot.operation for slot in attention_slots(model)}
    recipes = {path: op.recipe.to_json() for path, op in within.items() if op is not None}
    if recipes:
        own[_ATTENTION] = json.dumps(recipes)
    values = {name: np.asarray(value) for name, value in arrays.items()}
    return PackedModel(values, records, {**(metadata or {}), **own})


def load_packed(path: str | Path, template: Model) -> Model:
    """The model that :func:`save_packed` wrote, in evaluation mode.

    Args:
        path: of the file.
        template: a model of the same kind, with weights or as ``nnx.eval_shape`` makes it, whose
            layers' recipes do not matter; it is not changed.

    Returns:
        A new model. Its random streams, if any, are the template's.

    Raises:
        ValueError: a damaged file, one of another kind, or a template that does not fit it.
        OSError: it cannot be read.

    Example:
        >>> import tempfile
        >>> from fp4jax.nnx import pack
        >>> packed = pack(apply_recipe(nnx.Linear(32, 8, rngs=nnx.Rngs(0)), "full"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save_packed(f"{folder}/layer.safetensors", packed)
        ...     same = load_packed(path, nnx.Linear(32, 8, rngs=nnx.Rngs(1)))
        >>> bool((same(jnp.ones((1, 32))) == packed(jnp.ones((1, 32)))).all())
        True
    """
    path = Path(path)
    check_codes(template)
    return from_contents(read_model(path), template, path)


def from_contents(contents: PackedModel, template: Model, path: str | Path) -> Model:
    """The model of a file that was read, see :func:`load_packed`; ``path`` is for messages."""
    arrays = dict(contents.arrays)
    model = _prepared(path, template, contents)
    graph, state, random = nnx.split(model, nnx.Not(nnx.RngState), ...)
    flat = nnx.to_flat_state(state)
    loaded = [(where, v.replace(_fitting(path, dotted(where), v, arrays))) for where, v in flat]
    if arrays:
        raise ValueError(f"{path} has {next(iter(arrays))}, which the model lacks.")
    return nnx.merge(graph, nnx.from_flat_state(loaded), random)


def is_packed(model: nnx.Module) -> bool:
    """Whether some layer of a model is packed."""
    return any(isinstance(layer.operation, PackedOp) for layer in layers(model))


def check_codes(model: nnx.Module) -> None:
    """ValueError if a packed model holds no codes any more."""
    if any(isinstance(module, DecodedKernel) for _, module in nnx.iter_modules(model)):
        raise ValueError(
            f"{type(model).__name__} was decoded by fp4jax.nnx.decode and holds no codes; give the "
            "packed model that it was made of."
        )


def _record(layer: Layer) -> LayerRecord:
    module, operation = layer.module, layer.operation
    assert operation is not None
    recipe, kernel, stored = forward_part(operation.recipe), module.kernel, None
    if isinstance(kernel, PackedKernel):
        layout = Layout.of(module, layer.slot.name)
        spec = recipe.fprop[1]
        assert spec is not None
        stored = StoredMatrix.of(layout, kernel, spec)
        # An involution: its own inverse.
        shape = layout.inputs_first(kernel.shape)
    else:
        shape = kernel.get_value().shape[len(layer.stack) :]
    return LayerRecord(recipe, layer.kind.__name__, tuple(shape), _call(layer), stored)


def _call(layer: Layer) -> dict[str, Any]:
    """The static arguments of a layer's product."""
    module = layer.module
    if layer.kind is nnx.Linear:
        return {}
    if layer.kind is nnx.Einsum:
        return {"einsum_str": module.einsum_str}
    if layer.kind is nnx.LinearGeneral:
        return {"axis": [*module.axis], "batch_axis": [*module.batch_axis]}
    space = len(module.kernel_size)

    def each(value: Any) -> list[int]:
        return [value or 1] * space if value is None or isinstance(value, int) else [*value]

    call = {
        "strides": each(module.strides),
        "padding": canonicalize_padding(module.padding, space),
        "kernel_dilation": each(module.kernel_dilation),
    }
    if layer.kind is nnx.ConvTranspose:
        return {**call, "transpose_kernel": module.transpose_kernel}
    return {
        **call,
        "input_dilation": each(module.input_dilation),
        "groups": module.feature_group_count,
    }


def _prepared(path: str | Path, template: Model, contents: PackedModel) -> Model:
    """A copy of the template that is packed as the file is."""
    model = nnx.clone(template)
    if not is_packed(model):
        apply_recipe(model, "baseline")
        found = {layer.path: layer for layer in layers(model)}
        for name, record in contents.layers.items():
            if name not in found:
                raise ValueError(f"{path} has a layer {name!r}, which the model lacks.")
            pack_layer(found[name], record.recipe)
        slots = {slot.path: slot for slot in attention_slots(model)}
        for name, recipe in json.loads(contents.metadata.get(_ATTENTION, "{}")).items():
            if name not in slots:
                raise ValueError(f"{path} has quantized {name!r}, which the model lacks.")
            pack_attention(slots[name], AttentionRecipe.from_json(recipe))
        narrow(model, jnp.dtype(contents.metadata.get(_REST, "float32")))
    model.eval()
    return model


def _fitting(path: str | Path, name: str, variable: Any, arrays: dict[str, np.ndarray]) -> Any:
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


def _flat(model: nnx.Module) -> list[tuple[Any, Any]]:
    return list(nnx.to_flat_state(nnx.state(model, nnx.Not(nnx.RngState))))
