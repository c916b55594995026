"""The three dialects of ONNX as targets."""

import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from flax import nnx

from fp4jax.deploy.account import Account, LayerRow
from fp4jax.deploy.layer_rows import float_bytes, layer_rows
from fp4jax.deploy.subject import Subject
from fp4jax.deploy.targets import Options, Target, register_target
from fp4jax.files import replacing
from fp4jax.nnx.attention_slots import attention_slots
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

    dialect = DIALECTS[name].with_half(options.half)
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
    forms = {call.path: call.form for call in written.calls}
    in_half = "half" in forms.values()
    computes = f"what the table says, in {dialect.half}," if in_half else "the packed model"
    checked = (
        f"largest difference from {computes} in {runner}: {worst:.1e} in a part, "
        f"{difference.logits:.1e} of the logits"
    )
    if in_half:
        checked += f"; of the logits from the packed model's: {difference.packed:.1e}"
    in_words = {path: dialect.in_words[form] for path, form in forms.items()}
    rows = (*layer_rows(subject.model, in_words), *_attention_rows(subject.model, in_words))
    return Account(path, name, len(data), float_bytes(subject.model), rows, checked)


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


def _attention_rows(model: nnx.Module, in_words: Mapping[str, str]) -> Iterator[LayerRow]:
    """What was written for each attention whose products are quantized."""
    for slot in attention_slots(model):
        if slot.path in in_words:
            yield LayerRow(slot.path, "attention", (), in_words[slot.path], 0)
