"""A packed model as a folder: model.safetensors, config.json, and what a convention adds."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from fp4jax.deploy.account import Account
from fp4jax.deploy.checkpoints.conventions import Convention
from fp4jax.deploy.checkpoints.layers import Parts, WrittenLayer, parts_of
from fp4jax.deploy.checkpoints.reading import CONFIG, WEIGHTS, read_checkpoint, read_matrices
from fp4jax.deploy.layer_rows import float_bytes, layer_rows
from fp4jax.deploy.subject import Subject
from fp4jax.deploy.targets import Options
from fp4jax.files import replacing_folder, write_json
from fp4jax.nnx.packed_files import contents_of
from fp4jax.packed import tensors
from fp4jax.packed.file_format import PackedModel
from fp4jax.version import __version__


def write(convention: Convention, subject: Subject, path: Path, options: Options) -> Account:
    """Writes the folder, reads it, compares it, and only then hands it over.

    Raises:
        ValueError: what the files have no place for, or codes that are read back differently.
        OSError: it cannot be written; nothing is left of it.
    """
    del options
    parts = parts_of(subject.model)
    config = _config(convention, subject, parts)
    arrays = _arrays(convention, parts)
    metadata = {"format": "pt", "fp4jax": __version__}
    with replacing_folder(path, keep_existing=True) as temporary:
        tensors.write(temporary / WEIGHTS, arrays, metadata)
        write_json(temporary / CONFIG, config)
        for name, record in convention.files(*_layers(parts)).items():
            write_json(temporary / name, record)
        compare(temporary, parts)
    return Account(
        path,
        convention.name,
        sum(file.stat().st_size for file in path.iterdir()),
        float_bytes(subject.model),
        layer_rows(subject.model, {layer.path: layer.what for layer in parts.layers}),
        f"read back: codes and scale bytes of {len(parts.layers)} layers equal the packed model's",
    )


def compare(folder: Path, parts: Parts) -> None:
    """ValueError unless the folder makes the same arrays, in both ways of reading it."""
    matrices = read_matrices(folder)
    for layer in parts.layers:
        found = matrices[layer.name].rows
        same = (found.codes == layer.rows.codes).all() and (found.scales == layer.rows.scales).all()
        if not same:
            raise ValueError(f"{folder}: {layer.name} was read back with other codes or scales.")
    again = contents_of(read_checkpoint(folder).model)
    for name, array in parts.contents.arrays.items():
        # Parameters may have been stored as bfloat16.
        expected = array if _is_packed(name, parts.contents) else array.astype(np.float32)
        if again.arrays[name].tobytes() != expected.tobytes():
            raise ValueError(f"{folder}: {name} was read back with other values.")


def _is_packed(name: str, contents: PackedModel) -> bool:
    return name.rpartition(".")[2] in ("codes", "block_scales", "amax")


def _layers(parts: Parts) -> tuple[tuple[list[str], list[str]], list[str]]:
    """Names of linear layers with and without quantized activations, and of all other layers."""
    linear = [layer for layer in parts.layers if layer.linear]
    quantized = [layer.name for layer in linear if layer.x_amax is not None]
    weights_only = [layer.name for layer in linear if layer.x_amax is None]
    targets = {*quantized, *weights_only}
    others = [layer.name for layer in parts.layers if layer.name not in targets]
    kept = {
        name.rpartition(".")[0]
        for name, array in parts.rest.items()
        if name.endswith("weight") and array.ndim > 1
    }
    return (quantized, weights_only), sorted({*others, *kept} - targets)


def _arrays(convention: Convention, parts: Parts) -> dict[str, np.ndarray]:
    arrays = dict(parts.rest)
    for layer in parts.layers:
        arrays |= {f"{layer.name}.{k}".lstrip("."): v for k, v in _tensors(convention, layer)}
    return arrays


def _tensors(convention: Convention, layer: WrittenLayer) -> list[tuple[str, np.ndarray]]:
    x, w = layer.record.recipe.fprop
    assert w is not None
    try:
        found = [
            (convention.codes, layer.rows.codes),
            (convention.scales, layer.rows.scales.view(jnp.float8_e4m3fn)),
            (convention.scale, convention.number(layer.amax, float(w.bound))),
        ]
        if x is not None and layer.x_amax is not None:
            found.append((convention.input_scale, convention.number(layer.x_amax, float(x.bound))))
    except ValueError as error:
        raise ValueError(f"layer {layer.path!r}: {error}") from error
    return found


def _config(convention: Convention, subject: Subject, parts: Parts) -> dict[str, Any]:
    """config.json: the convention's own part, and what makes the model again."""
    return {
        "quantization_config": convention.config(*_layers(parts)),
        "fp4jax": {
            "version": __version__,
            "about": json.loads(subject.about.to_json()),
            "layers": {
                layer.name: {
                    "path": layer.path,
                    "linear": layer.linear,
                    "amax": float(layer.amax),
                    "x_amax": None if layer.x_amax is None else float(layer.x_amax),
                    **layer.record.to_json(),
                }
                for layer in parts.layers
            },
        },
    }
