"""Shapes that tests and benchmarks of the quantizer share."""

import dataclasses
import math

from fp4jax.core.blocks import Axis
from fp4jax.core.spec import TensorSpec

NEAREST = TensorSpec()
STOCHASTIC = TensorSpec(rounding="stochastic")
UNBIASED = TensorSpec(rounding="stochastic_unbiased")
HADAMARD = TensorSpec(hadamard=True)
HADAMARD_STOCHASTIC = TensorSpec(hadamard=True, rounding="stochastic")
TILE = TensorSpec(block=(16, 16))

#: Every spec that has a kernel, by name.
SPECS = {
    "nearest": NEAREST,
    "stochastic": STOCHASTIC,
    "stochastic_unbiased": UNBIASED,
    "hadamard": HADAMARD,
    "hadamard+stochastic": HADAMARD_STOCHASTIC,
    "hadamard+stochastic_unbiased": TensorSpec(hadamard=True, rounding="stochastic_unbiased"),
    "16x16": TILE,
    "16x16 stochastic": TensorSpec(block=(16, 16), rounding="stochastic"),
    "16x16 stochastic_unbiased": TensorSpec(block=(16, 16), rounding="stochastic_unbiased"),
}


@dataclasses.dataclass(frozen=True)
class ArgSpec:
    """One array to be quantized: the axis is the one its blocks lie along."""

    name: str
    shape: tuple[int, ...]
    spec: TensorSpec
    axis: Axis = -1
    dtype: str = "bfloat16"

    @property
    def size(self) -> int:
        return math.prod(self.shape)


#: What a training step of the project's models quantizes (batches of 8 images of 256 x 256), and
#: arrays large enough to be bound by memory.
BENCHMARKS = (
    ArgSpec("large, rows", (8192, 4096), NEAREST),
    ArgSpec("large, rows", (8192, 4096), HADAMARD_STOCHASTIC),
    ArgSpec("large, columns", (8192, 4096), HADAMARD, 0),
    ArgSpec("large, columns", (8192, 4096), HADAMARD_STOCHASTIC, 0),
    ArgSpec("large, columns, float32", (8192, 4096), HADAMARD_STOCHASTIC, 0, "float32"),
    ArgSpec("large, weights", (8192, 4096), TILE, (0, 1)),
    ArgSpec("activations of a convolution, fprop", (8, 128, 128, 96), NEAREST),
    ArgSpec("gradients of a convolution, wgrad", (8 * 128 * 128, 96), HADAMARD_STOCHASTIC, 0),
    ArgSpec("tokens of a transformer, wgrad", (8 * 1024, 384), HADAMARD, 0),
    ArgSpec("gradients of a transformer, dgrad", (8 * 1024, 1536), STOCHASTIC),
    ArgSpec("weights of a transformer", (384, 1536), TILE, (0, 1)),
)
