"""Folders of either convention, read: matrices of any, whole models of those that fp4jax wrote."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from fp4jax import models
from fp4jax.core.blocks import BLOCK
from fp4jax.deploy.checkpoints.conventions import CONVENTIONS, Convention
from fp4jax.deploy.subject import Subject
from fp4jax.files import read_json
from fp4jax.nnx.keys import dotted
from fp4jax.nnx.packed_files import from_contents
from fp4jax.nnx.slots import SLOTS
from fp4jax.packed import tensors
from fp4jax.packed.file_format import LayerRecord, PackedModel
from fp4jax.packed.rows import Rows
from fp4jax.predict.about import About

WEIGHTS, CONFIG = "model.safetensors", "config.json"


@dataclasses.dataclass(frozen=True, eq=False)
class ReadMatrix:
    """The weights of a layer, as a file has them.

    Attributes:
        rows: codes and scale bytes.
        scale: amax / bound of the weights.
        input_scale: that of activations; None if they are not quantized.
    """

    rows: Rows
    scale: np.float32
    input_scale: np.float32 | None

    def dequantized(self) -> np.ndarray:
        """(block scale x scale) x code value, float32 (n, k)."""
        codes = np.stack([self.rows.codes & 15, self.rows.codes >> 4], -1)
        scales = self.rows.scales.view(jnp.float8_e4m3fn).astype(np.float32) * self.scale
        return _GRID[codes.reshape(len(codes), -1)] * scales.repeat(BLOCK, -1)


_GRID = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
_GRID = np.concatenate([_GRID, -_GRID])


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is of a convention that is known here."""
    record = read_json(folder / CONFIG) if folder.is_dir() else None
    quantization = (record or {}).get("quantization_config")
    return isinstance(quantization, dict) and quantization.get("quant_method") in CONVENTIONS


def read_matrices(folder: str | Path) -> dict[str, ReadMatrix]:
    """The FP4 matrices of a folder by the names of their modules, whoever wrote it.

    Raises:
        ValueError: no folder of compressed-tensors or Model-Optimizer, or one that is damaged.
        OSError: it cannot be read.
    """
    convention, _, arrays = _read(Path(folder))
    return _matrices(convention, arrays, Path(folder))


def read_checkpoint(folder: str | Path) -> Subject:
    """The packed model of a folder that :func:`fp4jax.deploy.export` wrote, bit for bit.

    Raises:
        ValueError: no such folder, one that somebody else wrote, or one that is damaged.
        OSError: it cannot be read.
    """
    folder = Path(folder)
    convention, config, arrays = _read(folder)
    if "fp4jax" not in config:
        raise ValueError(
            f"{folder} does not say what its model is: fp4jax did not write it. read_matrices "
            "reads its weights."
        )
    try:
        return _subject(folder, convention, config["fp4jax"], arrays)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder} is damaged: {CONFIG} is incomplete ({error!r}).") from error


def _read(folder: Path) -> tuple[Convention, dict[str, Any], dict[str, np.ndarray]]:
    config = read_json(folder / CONFIG)
    if config is None:
        raise ValueError(f"{folder} has no {CONFIG}; name a folder of a quantized model.")
    method = (config.get("quantization_config") or {}).get("quant_method")
    if method not in CONVENTIONS:
        raise ValueError(
            f"{folder / CONFIG} has the quant_method {method!r}; allowed: {', '.join(CONVENTIONS)}."
        )
    return CONVENTIONS[method], config, tensors.read(folder / WEIGHTS)[0]


def _matrices(
    convention: Convention, arrays: Mapping[str, np.ndarray], folder: Path
) -> dict[str, ReadMatrix]:
    found = {}
    for name in arrays:
        module, _, last = name.rpartition(".")
        if last != convention.scale:
            continue
        prefix = f"{module}." if module else ""
        missing = [p for p in (convention.codes, convention.scales) if prefix + p not in arrays]
        if missing:
            raise ValueError(f"{folder}: {module} has {last} and lacks {missing[0]}.")
        number = lambda key: _number(convention, arrays.get(key))  # noqa: E731
        scales = np.asarray(arrays[prefix + convention.scales]).view(np.uint8)
        scale = number(name)
        assert scale is not None
        found[module] = ReadMatrix(
            Rows(arrays[prefix + convention.codes], scales),
            scale,
            number(prefix + convention.input_scale),
        )
    return found


def _number(convention: Convention, array: np.ndarray | None) -> np.float32 | None:
    """amax / bound."""
    if array is None:
        return None
    value = np.float32(array.reshape(()) if array.size == 1 else array.max())
    return np.float32(1) / value if convention.inverted else value


def _subject(
    folder: Path, convention: Convention, own: Mapping[str, Any], arrays: dict[str, np.ndarray]
) -> Subject:
    about = About.from_json(json.dumps(own["about"]))
    template = about.create()
    matrices = _matrices(convention, arrays, folder)
    records: dict[str, LayerRecord] = {}
    packed: dict[str, np.ndarray] = {}
    for name, known in own["layers"].items():
        if name not in matrices:
            raise ValueError(f"{folder} is damaged: {WEIGHTS} lacks the tensors of {name}.")
        path, record = known["path"], LayerRecord.from_json(known)
        records[path] = record
        packed |= _packed(folder, path, record, matrices[name], known)
    _load(template, own["layers"], convention, arrays)
    flat = nnx.to_flat_state(nnx.state(template, nnx.Not(nnx.RngState)))
    rest = {dotted(where): np.asarray(v.get_raw_value()) for where, v in flat}
    for path in records:
        del rest[f"{path}.kernel" if path else "kernel"]
    contents = PackedModel({**rest, **packed}, records)
    return Subject(from_contents(contents, template, folder), about)


def _packed(
    folder: Path, path: str, record: LayerRecord, matrix: ReadMatrix, known: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """The arrays of a layer as a packed file names them."""
    stored, prefix = record.stored, f"{path}." if path else ""
    assert stored is not None
    codes, scales = matrix.rows.arrays(stored)
    amax = np.float32(known["amax"])
    if amax and not np.isclose(amax / np.float32(stored.bound), matrix.scale, rtol=1e-6, atol=0):
        raise ValueError(f"{folder}: {CONFIG} and {WEIGHTS} have unequal scales of {path!r}.")
    found: dict[str, np.ndarray] = {
        f"{prefix}kernel.codes": codes,
        f"{prefix}kernel.block_scales": scales.view(jnp.float8_e4m3fn),
        f"{prefix}kernel.amax": np.asarray(amax),
    }
    if known["x_amax"] is not None:
        slot = next(slot.name for kind, slot in SLOTS.items() if kind.__name__ == record.kind)
        found[f"{prefix}{slot}.amax"] = np.asarray(np.float32(known["x_amax"]))
    return found


def _load(
    template: nnx.Module,
    layers: Mapping[str, Any],
    convention: Convention,
    arrays: Mapping[str, np.ndarray],
) -> None:
    """Sets what is not packed; kernels that are keep what they have."""
    own = (convention.codes, convention.scales, convention.scale, convention.input_scale)
    of_layers = {f"{name}.{part}".lstrip(".") for name in layers for part in own}
    params = {name: array for name, array in arrays.items() if name not in of_layers}
    held, names = models.to_torch(template), models.torch_names(template)
    for known in layers.values():
        weight = names[f"{known['path']}.kernel".lstrip(".")]
        params[weight] = held[weight]
    models.load_torch(template, params)
