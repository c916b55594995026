"""Running ONNX models: by the reference evaluator, or by onnxruntime."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fp4jax.extras import Extra

with Extra("deploy"):
    import onnx
    from onnx import helper

#: (model, images, names of outputs) -> their values.
Run = Callable[[onnx.ModelProto, np.ndarray, Sequence[str]], list[np.ndarray]]


def reference(
    model: onnx.ModelProto, images: np.ndarray, outputs: Sequence[str]
) -> list[np.ndarray]:
    """By ``onnx.reference``, which runs every dialect, slowly."""
    from onnx.reference import ReferenceEvaluator

    evaluator: Any = ReferenceEvaluator(with_outputs(model, outputs), new_ops=[_transposed()])
    # Blocks of zeros are divided by their amax on purpose.
    with np.errstate(all="ignore"):
        return evaluator.run(None, {"images": images})


def _transposed() -> Any:
    """ConvTranspose that sums in float32 and rounds once; ``onnx.reference`` rounds each tap."""
    from onnx.reference.ops.op_conv_transpose import ConvTranspose as Reference

    class ConvTranspose(Reference):
        op_domain = ""

        def _run(self, x: Any, w: Any, bias: Any = None, **attributes: Any) -> Any:
            wide = (None if a is None else a.astype(np.float32) for a in (x, w, bias))
            return tuple(y.astype(x.dtype) for y in super()._run(*wide, **attributes))

    return ConvTranspose


def runtime(model: onnx.ModelProto, images: np.ndarray, outputs: Sequence[str]) -> list[np.ndarray]:
    """By onnxruntime on the CPU, which has no 4-bit floats.

    Raises:
        ModuleNotFoundError: onnxruntime is not installed.
    """
    with Extra("deploy"):
        import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        with_outputs(model, outputs).SerializeToString(), options, ["CPUExecutionProvider"]
    )
    found: Any = session.run(list(outputs), {"images": images})
    return found


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """The model with these of its values as outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {info.name: info for info in (*copy.graph.value_info, *copy.graph.output)}
    chosen = [known.get(name) or helper.make_empty_tensor_value_info(name) for name in names]
    del copy.graph.output[:]
    copy.graph.output.extend(chosen)
    return copy
