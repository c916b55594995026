"""The rules of all primitives that have one; importing a module registers its rules."""

from fp4jax.deploy.onnx.rules import (
    control as control,
    convolutions as convolutions,
    elementwise as elementwise,
    indexing as indexing,
    layers as layers,
    products as products,
    reductions as reductions,
    shapes as shapes,
)
