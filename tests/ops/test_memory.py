"""Peak memory of a quantized training step, against the baseline and Flax's own convolutions."""

import jax
import pytest

from benchmarks.bench_ops import train_step


def peak(size: str, recipe: str | None, batch: int, side: int) -> int:
    """Bytes of temporary memory of a compiled training step of the paper's CNN."""
    step, arguments = train_step(size, recipe, batch=1)
    shapes = [
        jax.ShapeDtypeStruct((batch, side, side, a.shape[-1]), a.dtype) if i in (3, 4) else a
        for i, a in enumerate(arguments)
    ]
    return jax.jit(step).lower(*shapes).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_recipe_5_needs_little_more_memory_500k():
    baseline = peak("500k", "baseline", batch=8, side=64)
    assert baseline > 10e6  # activations are in there
    assert peak("500k", "2d+rht+sr", batch=8, side=64) <= 1.5 * baseline


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_recipe_5_needs_at_most_2_5_times_the_memory_4m():
    """The paper's size: 4m, batch 32, 256 x 256. Measured: 0.94 and 1.13 times the baselines."""
    quantized = peak("4m", "2d+rht+sr", batch=32, side=256)
    assert quantized <= 2.5 * peak("4m", "baseline", batch=32, side=256)
    assert quantized <= 2.5 * peak("4m", None, batch=32, side=256)
