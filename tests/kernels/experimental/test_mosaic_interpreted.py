"""The tcgen05 kernel, interpreted with a race detector; needs JAX 0.12.

Without block scales as Mosaic's interpreter is, with them by what tests/mosaic_interpreter.py adds.
"""

import re
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fp4jax.kernels.block_scaled_matmul import base
from fp4jax.kernels.experimental import mosaic
from fp4jax.kernels.experimental.scale_layout import to_128x4
from tests import mosaic_interpreter

pytestmark = pytest.mark.slow

FACTORS = np.array([0.37, 0.0019], np.float32)


def sample(rows, k, kind):
    rng = np.random.default_rng(rows)
    if not kind.scaled:
        return jnp.asarray(rng.integers(-3, 4, (rows, k)).astype(np.float16))
    return mosaic._sample(rng, rows, k, ones=False)


def interpreted(params, kind, m, n, k, out_dtype=jnp.float32):
    """The kernel's result, and what it should be; two stages, so that they are used again."""
    from fp4jax.kernels.experimental import mosaic_tcgen05 as kernel

    a, b = sample(m, k, kind), sample(n, k, kind)
    scales = ()
    x, y = a, b
    if kind.scaled:
        x, y = (base.decoded_blocks(*q) for q in (a, b))
        scales = tuple(to_128x4(q.block_scales) for q in (a, b))
        a, b = (mosaic._values(q, k) for q in (a, b))
    x, y = (np.asarray(v.astype(jnp.float32)).astype(np.float64) for v in (x, y))
    got = kernel.product(
        a,
        b,
        scales,
        jnp.asarray(FACTORS),
        out_dtype,
        kind=kind,
        programs=2,
        stages=2,
        interpret=params,
    )
    return np.asarray(got.astype(jnp.float32)), (x @ y.T) * FACTORS.astype(np.float64).prod()


def test_interpreter_runs_the_skeleton():
    """float16 without block scales: six tiles for two programs, three steps in two stages."""
    with mosaic_interpreter.race_detection() as (params, races_found):
        from fp4jax.kernels.experimental.mosaic_tcgen05 import FLOAT16

        got, expected = interpreted(params, FLOAT16, 256, 384, 3 * 64)
        np.testing.assert_allclose(got, expected, rtol=1e-6)
        assert not races_found()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_interpreter_runs_the_kernel(dtype):
    with (
        mosaic_interpreter.race_detection() as (params, races_found),
        mosaic_interpreter.block_scales(),
    ):
        from fp4jax.kernels.experimental.mosaic_tcgen05 import FP4

        got, expected = interpreted(params, FP4, 256, 384, 3 * 256, dtype)
        error = np.abs(got - expected).max() / np.abs(expected).max()
        assert error < (1e-6 if dtype == jnp.float32 else 2.0**-8)
        assert not races_found()


def test_interpreter_runs_stacks():
    with (
        mosaic_interpreter.race_detection() as (params, races_found),
        mosaic_interpreter.block_scales(),
    ):
        from fp4jax.kernels.experimental import mosaic_tcgen05 as kernel

        a, b = (mosaic._sample(np.random.default_rng(i), 3 * 128, 256, ones=False) for i in (0, 1))
        operands = [mosaic._values(q, 256).reshape(3, 128, 256) for q in (a, b)]
        scales = tuple(to_128x4(q.block_scales).reshape(3, 1, 4, 32, 16) for q in (a, b))
        factors = jnp.stack([jnp.asarray(FACTORS) * i for i in (1, 2, 3)])

        def run(a, b, scales, factors):
            return kernel.product(
                a, b, scales, factors, jnp.float32, programs=2, stages=2, interpret=params
            )

        got = np.asarray(jax.vmap(run)(*operands, scales, factors))
        x, y = (np.asarray(base.decoded_blocks(*q).astype(jnp.float32)) for q in (a, b))
        x, y = (v.astype(np.float64).reshape(3, 128, 256) for v in (x, y))
        expected = np.einsum("bmk,bnk->bmn", x, y) * np.asarray(factors).prod(-1)[:, None, None]
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
        assert not races_found()


#: What is awaited -> which call of which function of Mosaic's waits for it, as they are traced.
WAITS = {
    "a free stage": ("barrier_wait", 0),
    "a free accumulator": ("barrier_wait", 3),
    "a full stage": ("barrier_wait", 4),
    "a finished accumulator": ("barrier_wait", 5),
    "values from tensor memory": ("wait_load_tmem", 0),
    "a free buffer": ("wait_smem_to_gmem", 2),
    "a written buffer": ("commit_smem", 0),
    "the last results": ("wait_smem_to_gmem", 4),
}


@pytest.mark.slow
@pytest.mark.parametrize("awaited", WAITS)
def test_interpreter_misses_every_wait(awaited):
    """Without any one of them there are races, or barriers that nobody looks at."""
    assert not clean(awaited)


def test_interpreter_wants_scales_in_a_ring():
    """One place in tensor memory for the block scales of all stages is a race."""
    assert clean(None)
    assert not clean("ring")


def clean(removed):
    """Whether the interpreter finds nothing wrong, something having been removed."""
    with (
        mosaic_interpreter.race_detection() as (params, races_found),
        mosaic_interpreter.block_scales(),
    ):
        from fp4jax.kernels.experimental import mosaic_tcgen05 as kernel

        changed = Without(kernel.plgpu, removed)
        with mock.patch.object(kernel, "plgpu", changed):
            try:
                interpreted(params, kernel.FP4, 128, 5 * 128, 3 * 256)
            except jax.errors.JaxRuntimeError as error:
                found = re.search("[Rr]ace|observed|completed before", str(error))
                return False if found else pytest.fail(str(error))
        assert removed in (None, "ring") or changed.calls[WAITS[removed][0]] > WAITS[removed][1]
        return not races_found()


class Without:
    """Mosaic's module, but for one call; or with one buffer for block scales in tensor memory."""

    def __init__(self, module, removed):
        self.module, self.removed, self.calls = module, removed, {}

    def __getattr__(self, name):
        real = getattr(self.module, name)
        if self.removed == "ring" and name == "async_copy_scales_to_tmem":
            return lambda smem, tmem: real(smem, first(tmem))
        if self.removed == "ring" and name == "tcgen05_mma":
            return lambda *args, a_scale, b_scale, **kwargs: real(
                *args, a_scale=first(a_scale), b_scale=first(b_scale), **kwargs
            )
        skipped, index = WAITS.get(self.removed, (None, None))
        if name != skipped:
            return real

        def call(*args, **kwargs):
            count = self.calls[name] = self.calls.get(name, -1) + 1
            return None if count == index else real(*args, **kwargs)

        return call


def first(tmem):
    return tmem.ref.at[:, : tmem.shape[1]]
