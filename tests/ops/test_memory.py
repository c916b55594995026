"""Peak memory of a quantized training step, against the baseline and Flax's own convolutions."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import bench_swin_unetr
from benchmarks.bench_ops import train_step
from fp4jax.train import Batch


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


@pytest.mark.slow
def test_recipe_5_needs_at_most_1_3_times_the_memory_in_3d():
    """Swin UNETR, 64 x 64 x 64. Sums of depth taps that are not written to memory made it 1.57."""

    def bytes_of_step(recipe: str) -> int:
        problem = bench_swin_unetr.CASES["3d"]
        program = problem.program(recipe, "float32")
        images, targets = problem.sample()
        index = jnp.arange(len(images), dtype=jnp.int32)
        batch = Batch(jnp.asarray(images), jnp.asarray(targets), index, jnp.int32(1), 1e-4)
        memory = program.step.lower(program.start(0), batch).compile().memory_analysis()
        return memory.temp_size_in_bytes

    assert bytes_of_step("2d+rht+sr") <= 1.3 * bytes_of_step("baseline")
