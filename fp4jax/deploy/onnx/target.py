"""The three dialects of ONNX as targets."""

import functools
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
from flax import nnx

from fp4jax.deploy.account import Account, LayerRow
from fp4jax.deploy.subject import Subject
from fp4jax.deploy.targets import Options, Target, register_target
from fp4jax.files import replacing
from fp4jax.nnx.slots import layers
from fp4jax.packed.kernel import PackedKernel
from fp4jax.version import __version__

_SUMMARIES = {
    "onnx-portable": "4-bit integers and a table: onnxruntime, and whatever reads ONNX",
    "onnx-standard": "float4 and block-wise scales of opset 23: OpenVINO, and what follows",
    "onnx-trt": "Model-Optimizer's nodes for TensorRT; needs calibrated activations",
}
#: Images that a file is compared on.
EXAMPLES = 2


def register() -> None:
    """Makes the targets known. What they need is imported when they are used."""
    for name, summary in _SUMMARIES.items():
        register_target(Target(name, summary, _writer(name), static=name == "onnx-trt"))


@functools.cache
def _writer(name: str):
    """The same function each time, so that registering twice is no conflict."""
    return functools.partial(write, name)


def write(name: str, subject: Subject, path: Path, options: Options) -> Account:
    """Writes, compares, and only then hands over."""
    from fp4jax.deploy.onnx import running
    from fp4jax.deploy.onnx.dialects import DIALECTS
    from fp4jax.deploy.onnx.model import to_onnx
    from fp4jax.deploy.onnx.verification import compare

    dialect = DIALECTS[name]
    written = to_onnx(
        subject.model,
        subject.image,
        dialect,
        batch=options.batch,
        channels_first=options.channels_first,
        metadata=_metadata(subject, name, options),
    )
    run = running.runtime if dialect.runs_in_onnxruntime else running.reference
    difference = compare(written, subject.model, subject.examples(options.batch or EXAMPLES), run)
    part, worst = difference.worst
    if not worst <= options.bound:
        raise ValueError(
            f"the file differs from the packed model by {worst:.1e} of the largest magnitude in "
            f"{part}, more than {options.bound:.1e}; nothing was written. Please report it, or set "
            "bound higher."
        )
    data = written.model.SerializeToString()
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    runner = "onnxruntime" if dialect.runs_in_onnxruntime else "onnx.reference"
    checked = (
        f"largest difference from the packed model in {runner}: {worst:.1e} in a part, "
        f"{difference.logits:.1e} of the logits"
    )
    products = {call.path: call.product for call in written.calls}
    rows = tuple(_rows(subject.model, products, dialect.in_words))
    size = sum(4 * math.prod(row.shape) for row in rows) + _other_bytes(subject.model)
    return Account(path, name, len(data), size, rows, checked)


def _metadata(subject: Subject, name: str, options: Options) -> dict[str, str]:
    """Text for the file: how its images and logits are meant."""
    space = "zyx"[-subject.about.spatial_dims :]
    order = f"bc{space}" if options.channels_first else f"b{space}c"
    about = subject.about
    return {
        "fp4jax": __version__,
        "target": name,
        "recipe": about.recipe,
        "layout": order,
        "channels": json.dumps(about.channels),
        "regions": json.dumps(about.regions),
        "threshold": str(about.threshold),
        "normalization": json.dumps({"divisor": about.divisor, "mean": about.mean, "sd": about.sd}),
    }


def _rows(
    model: nnx.Module, products: Mapping[str, str], in_words: Mapping[str, str]
) -> Iterator[LayerRow]:
    """What was written for each layer, in the model's order."""
    for layer in layers(model):
        kernel = layer.module.kernel
        if isinstance(kernel, PackedKernel):
            how = in_words[products[layer.path]]
            yield LayerRow(layer.path, layer.kind.__name__, kernel.shape, how, kernel.nbytes)
        else:
            value = kernel.get_value()
            nbytes = 4 * math.prod(value.shape)
            yield LayerRow(layer.path, layer.kind.__name__, value.shape, "float32", nbytes)


def _other_bytes(model: nnx.Module) -> int:
    """Of parameters that are no kernels, as float32."""
    kernels = sum(
        math.prod(layer.module.kernel.get_value().shape)
        for layer in layers(model)
        if not isinstance(layer.module.kernel, PackedKernel)
    )
    parameters = jax.tree.leaves(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat)))
    return 4 * (sum(math.prod(p.shape) for p in parameters) - kernels)
