"""The target "monai-bundle": the folder that MONAI's bundle specification asks for."""

import dataclasses
import math
import zipfile
from pathlib import Path

import numpy as np
from flax import nnx

from fp4jax import models
from fp4jax.deploy.account import Account
from fp4jax.deploy.card.target import card_text
from fp4jax.deploy.layer_rows import float_bytes, layer_rows
from fp4jax.deploy.monai.configs import INTENDED_USE, inference, metadata
from fp4jax.deploy.monai.network import buffers, network_def
from fp4jax.deploy.monai.torch_file import write_state_dict
from fp4jax.deploy.onnx import target as onnx
from fp4jax.deploy.subject import Subject
from fp4jax.deploy.targets import Options, Target, register_target
from fp4jax.files import replacing_folder, write_json
from fp4jax.nnx.packed_files import is_packed
from fp4jax.nnx.unpacking import unpack

_LICENSE = f"""No licence has been granted for the weights in this folder. Whoever trained them
decides on one, which the licence of the data may restrict: replace this text by it.

The configuration files were written by fp4jax, whose licence is Apache 2.0.

{INTENDED_USE}
"""
_README = """
## This bundle

`models/model.pt` holds the weights on the FP4 grid as float32 numbers, and MONAI leaves activations
as they are. `models/model.onnx`, if it is there, quantizes activations as the table says.
"""
ONNX = "onnx-portable"


def register() -> None:
    """Makes the target known."""
    summary = "a bundle of MONAI's: U-Net, BasicUNet, Swin UNETR"
    register_target(Target("monai-bundle", summary, write))


def write(subject: Subject, path: Path, options: Options) -> Account:
    """Writes the bundle; model.onnx too, where onnx is installed.

    Raises:
        ValueError: a network that MONAI does not have, or what the target "onnx-portable" raises.
        OSError: it cannot be written; nothing is left of it.
    """
    network_def(subject.about, subject.model)
    weights = grid_weights(subject.model)
    weights |= buffers(subject.about, weights)
    scores = {score.name: score.value for score in subject.scores}
    said = ""
    with replacing_folder(path, keep_existing=True) as temporary:
        for name in ("configs", "models", "docs"):
            (temporary / name).mkdir()
        write_json(temporary / "configs" / "metadata.json", metadata(subject, scores))
        write_json(temporary / "configs" / "inference.json", inference(subject))
        (temporary / "LICENSE").write_text(_LICENSE)
        (temporary / "docs" / "README.md").write_text(card_text(subject, front=False) + _README)
        write_state_dict(temporary / "models" / "model.pt", weights)
        _compare(temporary / "models" / "model.pt", weights)
        try:
            # MONAI's order of axes.
            first = dataclasses.replace(options, channels_first=True)
            model = onnx.write(ONNX, subject, temporary / "models" / "model.onnx", first)
            said = f"; model.onnx: {model.checked}"
        except ModuleNotFoundError as error:
            said = f"; no model.onnx: {error}"
    rows = layer_rows(subject.model, "weights on the FP4 grid, as float32")
    rows = tuple(dataclasses.replace(row, nbytes=4 * math.prod(row.shape)) for row in rows)
    return Account(
        path,
        "monai-bundle",
        sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        float_bytes(subject.model),
        rows,
        f"model.pt was read back: {len(weights)} tensors{said}",
    )


def grid_weights(model: nnx.Module) -> dict[str, np.ndarray]:
    """The parameters under torch's names as float32; those of packed layers lie on the FP4 grid.

    Example:
        >>> sorted(grid_weights(nnx.Linear(3, 2, rngs=nnx.Rngs(0))))
        ['bias', 'weight']
    """
    plain = unpack(model) if is_packed(model) else model
    return {name: array.astype(np.float32) for name, array in models.to_torch(plain).items()}


def _compare(path: Path, weights: dict[str, np.ndarray]) -> None:
    """ValueError unless the archive is whole and holds these numbers."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
        for key, (name, array) in enumerate(weights.items()):
            if damaged or archive.read(f"model/data/{key}") != array.tobytes():
                raise ValueError(f"{path}: {damaged or name} was read back with other values.")
