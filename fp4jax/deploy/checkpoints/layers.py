"""What is written of each packed layer, and which of them a loader may take for linear layers.

A linear layer with whole blocks is what the conventions are made for. Everything else, kernels of
convolutions, of layers that torch has as convolutions, rotated ones, those whose blocks were filled
up, has the same tensors, but its layer is not among the configuration's targets: what its rows and
columns are is said in the record ``stored`` beside it, and no loader takes it for something else.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from flax import nnx

from fp4jax import models
from fp4jax.nnx.packed_files import contents_of, is_packed
from fp4jax.nnx.unpacking import unpack
from fp4jax.packed.file_format import LayerRecord, PackedModel
from fp4jax.packed.rows import Rows
from fp4jax.packed.stored import StoredMatrix
from fp4jax.predict.packed_runs import PACK_STATIC


@dataclasses.dataclass(frozen=True, eq=False)
class WrittenLayer:
    """A packed layer.

    Attributes:
        path: dotted, in the Flax model.
        name: of the module in torch.
        record: as a packed file has it.
        rows: codes and scale bytes.
        amax: of the weights.
        x_amax: the static one of activations; None if they are not quantized.
        linear: whether it is what the conventions call a linear layer.
    """

    path: str
    name: str
    record: LayerRecord
    rows: Rows
    amax: np.float32
    x_amax: np.float32 | None
    linear: bool

    @property
    def stored(self) -> StoredMatrix:
        assert self.record.stored is not None
        return self.record.stored

    @property
    def what(self) -> str:
        """How it is written, in words."""
        if self.linear:
            return "FP4 linear layer"
        if self.stored.hadamard:
            return "FP4 matrix, rotated, layout stated"
        return "FP4 matrix, layout stated"


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
    """A packed model, taken apart.

    Attributes:
        contents: as a packed file has them.
        layers: that are packed.
        rest: all other parameters and statistics under torch's names, in torch's layout.
    """

    contents: PackedModel
    layers: list[WrittenLayer]
    rest: dict[str, np.ndarray]


def parts_of(model: nnx.Module) -> Parts:
    """A packed model, taken apart.

    Raises:
        ValueError: a model that is not packed, quantized products that are not those of packed
            weights, stacks of layers, or activations whose scale depends on the batch.
    """
    if not is_packed(model):
        raise ValueError(
            "the model has no FP4 weights, and these files are of such: export a run that was "
            "trained with a recipe, or quantize it with --recipe."
        )
    contents = contents_of(model)
    check(contents)
    plain = unpack(model)
    names, arrays = models.torch_names(plain), models.to_torch(plain)
    layers = []
    for path, record in contents.layers.items():
        if record.stored is not None:
            kernel = f"{path}.kernel" if path else "kernel"
            name = names[kernel]
            shape = arrays.pop(name).shape
            module = name.rpartition(".")[0]
            layers.append(_layer(path, module, record, contents.arrays, shape))
    return Parts(contents, layers, arrays)


def _layer(
    path: str,
    name: str,
    record: LayerRecord,
    arrays: Mapping[str, np.ndarray],
    torch_shape: tuple[int, ...],
) -> WrittenLayer:
    prefix, stored = f"{path}." if path else "", record.stored
    assert stored is not None
    held = {part: arrays[f"{prefix}kernel.{part}"] for part in ("codes", "block_scales", "amax")}
    rows = Rows.of(stored, held["codes"], held["block_scales"])
    n, half = rows.codes.shape
    return WrittenLayer(
        path=path,
        name=name,
        record=record,
        rows=rows,
        amax=np.float32(held["amax"]),
        x_amax=_x_amax(prefix, arrays),
        linear=record.kind == "Linear" and not stored.hadamard and torch_shape == (n, 2 * half),
    )


def _x_amax(prefix: str, arrays: Mapping[str, np.ndarray]) -> np.float32 | None:
    slots = ("dot_general", "conv_general_dilated", "conv_transpose")
    found = (arrays.get(f"{prefix}{slot}.amax") for slot in slots)
    return next((np.float32(amax) for amax in found if amax is not None), None)


def check(contents: PackedModel) -> None:
    """ValueError for what these files have no place for."""
    if "attention" in contents.metadata:
        raise ValueError(
            "a recipe quantizes products within attention, which these files have no place for: "
            "train with that attention kept in high precision."
        )
    for path, record in contents.layers.items():
        x, w = record.recipe.fprop
        if record.stored is None and (x is not None or w is not None):
            raise ValueError(
                f"layer {path!r} has the recipe {record.recipe.name!r} and is not packed; these "
                "files have 4-bit weights or none. Quantize its weights, or keep the layer in high "
                "precision."
            )
        if record.stored is not None and record.stored.stack:
            raise ValueError(
                f"layer {path!r} is a stack of {record.stored.stack} layers; give each a module of "
                "its own to export them."
            )
        if x is not None and x.amax != "static":
            raise ValueError(
                f"layer {path!r} takes the scale of its activations from each batch, which no "
                "loader of these files does: calibrate it (fp4jax train --calibrate max, or "
                f"fp4jax.nnx.calibrate), and export the run, or pack it with {PACK_STATIC}."
            )
