"""Packed models as safetensors files: arrays, a record of every layer, and text.

Arrays have dotted names. Of a packed layer L (empty for a model that is one layer; then without
the dot), with the axes that its record names,

    L.kernel.codes         uint8  (*stack, *leading, rows, columns / 2)
    L.kernel.block_scales  E4M3   (*stack, *leading, rows, columns / 16); for 16x16 tiles rows / 16
    L.kernel.amax          float32 (*stack)
    L.SLOT.amax            float32 (*stack), the static amax of x if the recipe has one; SLOT is
                           dot_general, conv_general_dilated or conv_transpose

Two codes to a byte, the even column in the low bits. A code is a sign (8) and a magnitude: 0, 0.5,
1, 1.5, 2, 3, 4, 6. value = code x block scale x amax / bound, in float32 ((scale x amax) x
fl(1 / bound)) x code. All other arrays are parameters and statistics in the dtype that they have.

The metadata, all text:

    format      "fp4jax-packed-2"
    fp4jax      the version that wrote it
    recipes     JSON: [{"name", "fprop": [spec of x or null, spec of w or null]}]
    layers      JSON: {path: record}
    ...         what the caller adds, such as "about"

A record has the layer's ``kind`` ("Linear", "LinearGeneral", "Conv", "ConvTranspose"), the index of
its ``recipe``, the ``kernel_shape`` of one layer's float parameter, the static arguments of its
``call`` (of a convolution: strides, padding, dilations, groups) and, unless its kernel is in float
under ``L.kernel``, ``stored``: see :class:`fp4jax.packed.stored.StoredMatrix`. With that, NumPy
makes the kernel again:

    codes = np.stack([bytes & 15, bytes >> 4], -1).reshape(*bytes.shape[:-1], -1)
    values = np.where(codes & 8, -1, 1) * GRID[codes & 7]
    scales = block_scales.repeat(16, -1), for tiles .repeat(16, -2) too
    matrix = values * scales * amax / bound
    if hadamard: every run of 16 columns times (H16 / 4) diag(hadamard)
    matrix.reshape([stored length of each axis])[[slice(length) of each axis]]
        .transpose(to kernel_axes), taps flipped if taps_reversed, .reshape(kernel_shape)

Files of the format "fp4jax-packed-1" have the index of the recipe in place of the record. They are
read; their records know nothing but the recipe.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fp4jax.ops.recipe import Recipe
from fp4jax.ops.spec_records import spec_of, spec_record
from fp4jax.packed import tensors
from fp4jax.packed.stored import StoredMatrix

FORMAT, _OLD_FORMAT = "fp4jax-packed-2", "fp4jax-packed-1"
_OWN = ("format", "recipes", "layers")


@dataclasses.dataclass(frozen=True)
class LayerRecord:
    """What a file says about one layer.

    Attributes:
        recipe: without its backward pass.
        kind: Flax's name of the layer; "" in old files.
        kernel_shape: of one layer's float parameter.
        call: static arguments of the layer's product.
        stored: how the kernel is packed; None if it is not.
    """

    recipe: Recipe
    kind: str = ""
    kernel_shape: tuple[int, ...] = ()
    call: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    stored: StoredMatrix | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "recipe": _recipe_to_json(self.recipe),
            "kernel_shape": self.kernel_shape,
            "call": dict(self.call),
            "stored": None if self.stored is None else self.stored.to_json(),
        }

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "LayerRecord":
        """The inverse of :meth:`to_json`; what else is in ``record`` is left out."""
        return _record([_recipe_from_json(record["recipe"])], {**record, "recipe": 0})


@dataclasses.dataclass(frozen=True)
class PackedModel:
    """The contents of a file: arrays by name, records by the layers' paths, and further text."""

    arrays: Mapping[str, np.ndarray]
    layers: Mapping[str, LayerRecord]
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)


def write_model(path: str | Path, model: PackedModel) -> Path:
    """Writes a file in one step; an existing one is replaced.

    Raises:
        ValueError: metadata under a name that the format uses itself.
        OSError: it cannot be written.
    """
    if taken := sorted({*model.metadata} & {*_OWN}):
        raise ValueError(f"metadata has {taken[0]!r}, which the format uses; take another name.")
    recipes = list(dict.fromkeys(record.recipe for record in model.layers.values()))
    layers = {
        name: {**record.to_json(), "recipe": recipes.index(record.recipe)}
        for name, record in model.layers.items()
    }
    own = {
        "format": FORMAT,
        "recipes": json.dumps([_recipe_to_json(recipe) for recipe in recipes]),
        "layers": json.dumps(layers),
    }
    path = Path(path)
    tensors.write(path, model.arrays, {**model.metadata, **own})
    return path


def read_model(path: str | Path) -> PackedModel:
    """What :func:`write_model` wrote.

    Raises:
        ValueError: no such file, or one that is damaged.
        OSError: it cannot be read.

    Example:
        >>> import tempfile
        >>> from fp4jax.ops.recipe import Recipe
        >>> model = PackedModel({"bias": np.ones(3)}, {"": LayerRecord(Recipe(name="none"))})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     same = read_model(write_model(f"{folder}/m.safetensors", model))
        >>> same.arrays["bias"].tolist(), same.layers == model.layers
        ([1.0, 1.0, 1.0], True)
    """
    path = Path(path)
    arrays, metadata = tensors.read(path)
    return PackedModel(arrays, *_parsed(path, metadata))


def read_records(path: str | Path) -> PackedModel:
    """The same without the arrays, whose bytes are not read."""
    path = Path(path)
    return PackedModel({}, *_parsed(path, tensors.read_metadata(path)))


def _parsed(
    path: Path, metadata: Mapping[str, str]
) -> tuple[dict[str, LayerRecord], dict[str, str]]:
    """The records, and what the metadata hold beside them."""
    found = metadata.get("format")
    if found not in (FORMAT, _OLD_FORMAT):
        raise ValueError(
            f"{path} has the format {found!r}, not {FORMAT!r}; packed models are written by "
            "fp4jax.nnx.save_packed."
        )
    try:
        recipes = [_recipe_from_json(record) for record in json.loads(metadata["recipes"])]
        layers = json.loads(metadata["layers"])
        if found == _OLD_FORMAT:
            records = {name: LayerRecord(recipes[index]) for name, index in layers.items()}
        else:
            records = {name: _record(recipes, layer) for name, layer in layers.items()}
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: its metadata are incomplete ({error}).") from error
    return records, {name: text for name, text in metadata.items() if name not in _OWN}


def _record(recipes: list[Recipe], layer: dict[str, Any]) -> LayerRecord:
    return LayerRecord(
        recipe=recipes[layer["recipe"]],
        kind=layer["kind"],
        kernel_shape=tuple(layer["kernel_shape"]),
        call=layer["call"],
        stored=layer["stored"] and StoredMatrix.from_json(layer["stored"]),
    )


def _recipe_to_json(recipe: Recipe) -> dict[str, Any]:
    return {"name": recipe.name, "fprop": [spec_record(spec) for spec in recipe.fprop]}


def _recipe_from_json(record: dict[str, Any]) -> Recipe:
    x, w = map(spec_of, record["fprop"])
    return Recipe(name=record["name"], fprop=(x, w))
