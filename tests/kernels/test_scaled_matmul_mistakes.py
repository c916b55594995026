"""What scaled_matmul refuses, and in which words."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fp4jax as fp4
from fp4jax import kernels
from tests.kernels.operands import ROWS, TILES, A, B, interpreted

ALONG_N = functools.cache(lambda: fp4.quantize(jnp.ones((32, 16)), ROWS, axis=1))
ROTATING = fp4.TensorSpec(hadamard=True)
ROTATED = functools.cache(lambda: fp4.quantize(jnp.ones((20, 16)), ROTATING, axis=0))
UNROTATED = functools.cache(lambda: fp4.quantize(jnp.ones((20, 16)), ROWS, axis=0))
QROT = functools.cache(lambda: fp4.quantize(jnp.ones((4, 20)), ROTATING))

MISTAKES = {
    r"b is an array of float32; give a QTensor": lambda: (A(), jnp.ones((32, 8)), {}),
    r"a is 3\.0; give float32 or bfloat16": lambda: (3.0, B(), {}),
    "a is an array of float16": lambda: (A().astype(jnp.float16), B(), {}),
    "a is an array of float64": lambda: (np.ones((4, 32)), B(), {}),
    "a is an array of int32": lambda: (A().astype(jnp.int32), B(), {}),
    r"a has shape \(2, 4, 32\); it must be \(m, k\)": lambda: (jnp.ones((2, 4, 32)), B(), {}),
    r"a has shape \(32,\)": lambda: (jnp.ones(32), B(), {}),
    r"a has shape \(4, 31\) and b \(32, 8\)": lambda: (jnp.ones((4, 31)), B(), {}),
    "counts with the length that it had before": lambda: (jnp.ones((4, 32)), ROTATED(), {}),
    r"a is not rotated and b is rotated": lambda: (
        fp4.quantize(jnp.ones((4, 20)), ROWS),
        ROTATED(),
        {},
    ),
    r"a is rotated \(hadamard=True\) and b is not rotated": lambda: (QROT(), UNROTATED(), {}),
    "two different bases": lambda: (QROT(), kernels.decode(UNROTATED()), {}),
    "b is quantized along axis 1, but axis 0 is contracted": lambda: (A(), ALONG_N(), {}),
    r"b is quantized along axis \(0, 1\)": lambda: (
        A(),
        fp4.quantize(jnp.ones((32, 16)), TILES),
        {},
    ),
    "a is quantized along axis 0": lambda: (fp4.quantize(jnp.ones((4, 32)), ROWS, axis=0), B(), {}),
    "a has shape .*Multiply stacks with jax.vmap": lambda: (
        jax.tree.map(lambda x: x[None], B()),
        B(),
        {},
    ),
    "b has shape .*Multiply stacks with jax.vmap": lambda: (
        A(),
        jax.tree.map(lambda x: x[None], B()),
        {},
    ),
    "block scales of": lambda: (A(), dataclasses.replace(B(), block_scales=B().block_scales.T), {}),
    "codes of int32": lambda: (
        A(),
        dataclasses.replace(B(), codes=B().codes.astype(jnp.int32)),
        {},
    ),
    r"b's amax has shape \(2,\)": lambda: (A(), dataclasses.replace(B(), amax=jnp.ones(2)), {}),
    "must be .* in bfloat16 or float32": lambda: (
        A(),
        kernels.Decoded(jnp.ones((8, 32), jnp.float16), jnp.float32(1)),
        {},
    ),
    "b is decoded already": lambda: (A(), kernels.decode(B()), interpreted),
    "implementation is 'cublas'; allowed: 'auto'": lambda: (A(), B(), {"implementation": "cublas"}),
    "pass implementation='pallas'": lambda: (A(), B(), {"interpret": True}),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_errors(message):
    a, b, options = MISTAKES[message]()
    with pytest.raises(ValueError, match=message):
        kernels.scaled_matmul(a, b, **options)


def test_decode_checks():
    for bad in (jnp.ones((32, 8)), ALONG_N()):
        with pytest.raises(ValueError, match=r"^b is "):
            kernels.decode(bad)
