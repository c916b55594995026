"""Products of dense windows and of volumes on CPU: equal to XLA's convolution, bit for bit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fp4jax.ops.convolution import cpu, default, products as windows
from fp4jax.ops.convolution.geometry import Window

WINDOWS = {
    "3 x 3": Window((16, 18), (16, 18), (3, 3), (1, 1), (1, 1), (1, 1)),
    "one block": Window((17, 19), (17, 19), (3, 2), (1, 1), (1, 1), (1, 0)),
    "valid": Window((20, 17), (17, 17), (4, 1), (1, 1), (1, 1), (0, 0)),
    "rows": Window((18, 16), (16, 16), (3, 1), (1, 1), (1, 1), (0, 0)),
    "planes": Window((6, 9, 16), (4, 8, 16), (3, 2, 1), (1, 1, 1), (1, 1, 1), (0, 0, 0)),
    "volume, valid": Window((6, 9, 8), (4, 7, 6), (3, 3, 3), (1, 1, 1), (1, 1, 1), (0, 0, 0)),
    "rows, stride 2": Window((17, 16), (7, 16), (4, 1), (2, 1), (1, 1), (0, 0)),
    "one column": Window((12, 12), (12, 10), (1, 3), (1, 1), (1, 1), (0, 0)),
    "negative padding": Window((20, 21), (16, 17), (3, 3), (1, 1), (1, 1), (-1, -2)),
    "3 x 3 x 3": Window((8, 7, 6), (8, 7, 6), (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    "2 x 1 x 3": Window((9, 7, 6), (9, 6, 7), (2, 1, 3), (1, 1, 1), (1, 1, 1), (0, -1, 2)),
    "stride 2": Window((8, 6, 4), (4, 3, 2), (3, 3, 3), (2, 2, 2), (1, 1, 1), (1, 1, 1)),
    "dilated": Window((8, 6, 5), (4, 6, 3), (3, 2, 2), (1, 1, 2), (2, 1, 3), (0, 1, 1)),
    "stride > kernel": Window((10, 9, 4), (4, 2, 4), (2, 1, 1), (3, 4, 1), (1, 1, 1), (0, -1, 0)),
    "empty grid": Window((2, 3, 3), (0, 3, 3), (4, 1, 1), (1, 1, 1), (1, 1, 1), (0, 0, 0)),
    "empty image": Window((0, 3, 3), (3, 3, 3), (2, 1, 1), (1, 1, 1), (1, 1, 1), (2, 0, 0)),
    "groups": Window((6, 5, 4), (6, 5, 4), (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1), groups=2),
}


def integers(seed: int, *shape: int) -> jax.Array:
    """Small integers as float32: every sum below is exact, in any order."""
    return jnp.asarray(np.random.default_rng(seed).integers(-4, 5, shape), jnp.float32)


@pytest.mark.parametrize("name", WINDOWS)
def test_products_are_those_of_other_back_ends(name, monkeypatch):
    smaller = dataclasses.replace(cpu.CROSSOVERS, block=64, block_fewest=32)
    monkeypatch.setattr(cpu, "CROSSOVERS", smaller)
    window = WINDOWS[name]
    # More channels on the side that the other one's depth taps then go to.
    i, o = (4, 6) if len(name) % 2 else (6, 2)
    image, grid = integers(0, 2, *window.image, i), integers(1, 2, *window.grid, o)
    kernel = integers(2, *window.taps, i // window.groups, o)

    @jax.jit
    def products(image, grid, kernel):
        options = (window, None, jnp.dtype(jnp.float32))
        return [
            (
                form.gather(image, kernel, *options),
                form.scatter(grid, kernel, *options),
                form.kernel_gradient(image, grid, *options),
            )
            for form in (cpu, default)
        ]

    for ours, theirs in zip(*products(image, grid, kernel), strict=True):
        np.testing.assert_array_equal(ours, theirs, strict=True)


def test_blocks():
    assert cpu.rows_of_block((64, 64, 64)) == 1
    assert cpu.rows_of_block((128, 128)) == 32
    assert cpu.rows_of_block((16, 16)) == 16
    assert cpu.rows_of_block((127, 128)) == 127

    def pays(*size: int) -> bool:
        one = (1,) * len(size)
        return cpu.pays_by_blocks(Window(size, size, one, one, one, (0,) * len(size)))

    assert pays(16, 16)
    assert not pays(8, 8)
    assert not pays(1024)


def test_sums_of_half_precision_are_in_float32():
    window = WINDOWS["3 x 3 x 3"]
    image, grid = ((integers(s, 1, *window.image, 4) / 8).astype(jnp.bfloat16) for s in (0, 1))
    kernel = (integers(2, *window.taps, 4, 4) / 8).astype(jnp.bfloat16)
    for product, operands in (
        (windows.gather, (image, kernel)),
        (windows.kernel_gradient, (image, grid)),
    ):
        rounded = product(*operands, window=window)
        assert rounded.dtype == jnp.bfloat16
        exact = product(*operands, window=window, preferred_element_type=jnp.float32)
        np.testing.assert_array_equal(rounded, exact.astype(jnp.bfloat16))
