"""scaled_matmul: every implementation against the reference, decoding exhaustively, dispatch."""

import dataclasses
import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import fp4jax as fp4
from fp4jax import kernels
from fp4jax.core.formats import E2M1_MAGNITUDES
from fp4jax.kernels import backend, first_use
from fp4jax.kernels.block_scaled_matmul import api, base, cudnn, decode, pallas_triton, tiles
from fp4jax.kernels.block_scaled_matmul.arg_specs import AWKWARD, Layer, axis_of, shapes, weights
from fp4jax.kernels.block_scaled_matmul.operands import Packed
from tests import ptx
from tests.checks import assert_same_sums, diagonal
from tests.samples import normal

ROWS = fp4.TensorSpec()
TILES = fp4.TensorSpec(block=(16, 16))
CODE_VALUES = np.concatenate([E2M1_MAGNITUDES, -E2M1_MAGNITUDES])
# All finite, non-negative E4M3 bytes.
SCALE_BYTES = np.arange(0x7F, dtype=np.uint8)
SCALE_VALUES = SCALE_BYTES.view(jnp.float8_e4m3fn).astype(np.float64)

CUDNN = "cuDNN's block-scaled product"

interpreted = {"implementation": "pallas", "interpret": True}


def left(m, k, kind, seed=1) -> tuple[Any, np.ndarray]:
    """The left operand as bfloat16, float32 or a QTensor; and its exact values."""
    a = np.random.default_rng(seed).standard_normal((m, k)).astype(np.float32)
    if kind == "quantized":
        q = fp4.quantize(a, ROWS)
        return q, np.asarray(q.dequantize(), np.float64)
    a = jnp.asarray(a).astype(kind)
    return a, np.asarray(a, np.float64)


def any_codes(rng, rows, k, axes, lengths, scales=None):
    """A QTensor of random codes, (rows, k) padded to blocks; block scales of 1 unless given."""
    half, blocks = -(-k // 16) * 8, -(-k // 16)
    tall = 1 if len(axes) == 1 else 16
    codes = rng.integers(0, 256, (-(-rows // tall) * tall, half), dtype=np.uint8)
    # Padding holds zeros.
    columns = np.arange(2 * half).reshape(half, 2) < k
    codes &= np.uint8(15) * columns[:, 0] | np.uint8(240) * columns[:, 1]
    codes[rows:] = 0
    ones = np.ones((len(codes) // tall, blocks), jnp.float8_e4m3fn)
    spec = TILES if len(axes) == 2 else ROWS
    return fp4.QTensor(
        jnp.asarray(codes), jnp.asarray(ones), jnp.float32(2688), axes, lengths, spec
    )


def unit_pair(rng, m, k, n, spec):
    """QTensors (m, k) and (k, n) with all scales 1: any product of them is exact."""
    a = any_codes(rng, m, k, (-1,), (k,))
    tiles_ = spec is TILES
    return a, any_codes(rng, n, k, (-1, -2) if tiles_ else (-2,), (n, k) if tiles_ else (k,))


def exact_product_of(a, b):
    return np.asarray(a.dequantize(), np.float64) @ np.asarray(b.dequantize(), np.float64)


KINDS = ("bfloat16", "float32", "quantized")


@pytest.mark.parametrize(
    ("shape", "kind", "spec"),
    [
        pytest.param(s, KINDS[i % 3], (ROWS, TILES)[i // 3 % 2], marks=[pytest.mark.slow] * (i > 3))
        for i, s in enumerate(AWKWARD)
    ],
)
def test_equals_the_product_of_dequantized_operands(shape, kind, spec):
    m, k, n = shape
    a, a_values = left(m, k, kind)
    b = weights(Layer("", k, n), spec)
    b_values = np.asarray(b.dequantize(), np.float64)
    expected, scale = a_values @ b_values, np.abs(a_values) @ np.abs(b_values)
    for options in ({}, interpreted):
        y = kernels.scaled_matmul(a, b, preferred_element_type=jnp.float32, **options)
        assert y.shape == (m, n)
        assert (np.abs(np.asarray(y, np.float64) - expected) <= 1e-6 * scale).all(), options


@settings(max_examples=3)
@given(
    m=st.integers(1, 40),
    k=st.integers(1, 150),
    n=st.integers(1, 50),
    spec=st.sampled_from([ROWS, TILES]),
    seed=st.integers(0, 99),
)
def test_interpreted_kernel_has_the_bits_of_the_reference_with_unit_scales(m, k, n, spec, seed):
    """Products are multiples of 1/4 and sums are exact: no order of summation changes them."""
    a, b = unit_pair(np.random.default_rng(seed), m, k, n, spec)
    expected = exact_product_of(a, b)
    for options in ({}, interpreted):
        np.testing.assert_array_equal(kernels.scaled_matmul(a, b, **options), expected)


TABLE = dict.fromkeys(
    tile for table in (tiles._TABLE[9], tiles._TABLE[10], tiles._OTHERS) for tile in table.values()
)


@pytest.mark.parametrize(
    "tile",
    [pytest.param(t, marks=[pytest.mark.slow] if i % 3 else []) for i, t in enumerate(TABLE)],
)
def test_every_tile_of_the_table(tile):
    """Bits do not depend on tiles, on which operand is first, or on the parts of k."""
    tile = dataclasses.replace(tile, split=2)
    a, b = unit_pair(np.random.default_rng(0), 20, 300, 140, ROWS)
    values = base.decoded_rows(a)
    packed = Packed(b.codes, b.block_scales)
    y = pallas_triton.product(values, packed, tile, portable=True, interpret=True)
    np.testing.assert_array_equal(y, exact_product_of(a, b))


def test_kernel_decodes_all_codes_and_scales():
    """A product with the identity shows what the kernel makes of each code and scale byte."""
    codes = np.tile(np.arange(16, dtype=np.uint8), (len(SCALE_BYTES), 1))
    packed = Packed(
        jnp.asarray(codes[:, 0::2] | codes[:, 1::2] << 4),
        jnp.asarray(SCALE_BYTES.view(jnp.float8_e4m3fn)[:, None]),
    )
    expected = SCALE_VALUES[:, None] * CODE_VALUES
    tile = tiles.choose_tile(16, len(SCALE_BYTES), 16, capability=(9, 0), cores=132)
    identity = jnp.eye(16, dtype=jnp.bfloat16)
    y = pallas_triton.product(identity, packed, tile, portable=True, interpret=True)
    np.testing.assert_array_equal(y.T, expected)
    for decoded in (base.decoded_blocks(*packed), jax.jit(lambda: base.decoded_blocks(*packed))()):
        np.testing.assert_array_equal(np.asarray(decoded, np.float64), expected)


@pytest.mark.parametrize("position", range(4))
def test_ptx_decodes_all_codes_and_scales(position):
    """Bit by bit: 256 bytes x 127 scales at each place of a register, the others random."""
    rng = np.random.default_rng(position)
    shape = (256, len(SCALE_BYTES))
    codes = rng.integers(0, 256, (*shape, 4), dtype=np.uint8)
    codes[..., position] = np.arange(256)[:, None]
    scales = rng.choice(SCALE_BYTES, (*shape, 4))
    scales[..., position] = SCALE_BYTES
    registers = ptx.run(decode.SCALES, scales.view(np.uint32)[..., 0], outputs=2)
    decoded = np.concatenate([ptx.halves(r) for r in registers], axis=-1)
    values = scales.view(jnp.float8_e4m3fn).astype(np.float64)
    np.testing.assert_array_equal(decoded, values * 2.0**119)
    for text, nibbles in ((decode.LOW, codes & 15), (decode.HIGH, codes >> 4)):
        out = ptx.run(text, codes.view(np.uint32)[..., 0], *registers, outputs=2)
        got = np.concatenate([ptx.halves(r) for r in out], axis=-1) * decode.UNBIAS
        np.testing.assert_array_equal(got, CODE_VALUES[nibbles] * values)


def test_float32_enters_in_three_parts_without_loss():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((8, 64)).astype(np.float32) * np.exp2(
        rng.integers(-80, 120, (8, 64))
    ).astype(np.float32)
    a[0, :4] = [np.finfo(np.float32).max, -0.0, 2.0**-100, 3e38]
    parts = pallas_triton.split_float32(jnp.asarray(a))
    total = sum(np.asarray(p, np.float64) for p in parts)
    np.testing.assert_array_equal(total, a)
    special = jnp.array([[np.inf, -np.inf, np.nan]], jnp.float32)
    parts = [np.asarray(p, np.float32) for p in pallas_triton.split_float32(special)]
    np.testing.assert_array_equal(parts[0], special)
    np.testing.assert_array_equal(parts[1:], np.zeros((2, 1, 3)))


def test_order_of_the_scales():
    """The accumulator times a's tensor scale, times b's: as in the quantized dot_general."""
    a = normal(3, 24, 80) * 3
    w = normal(4, 80, 48) * 0.01
    dims = (((1,), (0,)), ((), ()))
    expected = fp4.dot_general(a, w, dims, recipe="full")
    qa, qw = fp4.quantize(a, ROWS), fp4.quantize(w, ROWS, axis=0)
    y = kernels.scaled_matmul(qa, qw)
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6 * float(jnp.abs(expected).max()))
    unit_a, unit_w = unit_pair(np.random.default_rng(0), 24, 80, 48, ROWS)
    rescaled = [
        dataclasses.replace(q, amax=amax)
        for q, amax in ((unit_a, jnp.float32(1.7)), (unit_w, jnp.float32(0.3)))
    ]
    sums = np.asarray(kernels.scaled_matmul(unit_a, unit_w))
    scales = [np.asarray(q.tensor_scale) for q in rescaled]
    for options in ({}, interpreted):
        y = kernels.scaled_matmul(*rescaled, **options)
        np.testing.assert_array_equal(y, (sums * scales[0]) * scales[1])


def test_nan_and_inf_are_not_hidden():
    w = jnp.ones((32, 4)).at[3, 2].set(jnp.nan)
    y = kernels.scaled_matmul(jnp.ones((2, 32)), fp4.quantize(w, ROWS, axis=0), **interpreted)
    assert jnp.isnan(y).all()
    a = jnp.ones((2, 32)).at[1, 5].set(jnp.inf)
    y = kernels.scaled_matmul(a, fp4.quantize(jnp.ones((32, 4)), ROWS, axis=0), **interpreted)
    assert jnp.isfinite(y[0]).all()
    assert (y[1] == jnp.inf).all()


@pytest.mark.parametrize("shape", [(0, 32, 4), (3, 32, 0), (3, 0, 4)])
def test_empty(shape):
    m, k, n = shape
    b = weights(Layer("", k, n))
    for options in ({}, interpreted):
        y = kernels.scaled_matmul(jnp.ones((m, k)), b, **options)
        np.testing.assert_array_equal(y, np.zeros((m, n)))


def test_dtypes():
    b = weights(Layer("", 32, 8))
    q = fp4.quantize(jnp.ones((3, 32)), ROWS)
    for a, dtype in ((jnp.ones((3, 32)), "float32"), (q, "float32")):
        assert kernels.scaled_matmul(a, b).dtype == dtype
    half = jnp.ones((3, 32), jnp.bfloat16)
    for options in ({}, interpreted):
        assert kernels.scaled_matmul(half, b, **options).dtype == jnp.bfloat16
        y = kernels.scaled_matmul(half, b, preferred_element_type=jnp.float16, **options)
        assert y.dtype == jnp.float16


@pytest.mark.parametrize("options", [{}, interpreted], ids=["auto", "pallas"])
def test_jit_compiles_once(options):
    b = weights(Layer("", 64, 16))
    traces = []

    @jax.jit
    def f(a, b):
        traces.append(1)
        return kernels.scaled_matmul(a, b, **options)

    a = left(4, 64, "float32")[0]
    np.testing.assert_array_equal(f(a, b), f(a, weights(Layer("", 64, 16))))
    assert len(traces) == 1
    assert_same_sums(f(a, b), kernels.scaled_matmul(a, b, **options))


@pytest.mark.parametrize(
    ("options", "spec"), [({}, TILES), (interpreted, ROWS)], ids=["auto", "pallas"]
)
def test_vmap(options, spec):
    """Over a, over stacked QTensors, over both, and twice."""
    f = jax.jit(lambda a, b: kernels.scaled_matmul(a, b, **options))
    w = normal(0, 3, 70, 20)
    a = normal(1, 3, 5, 70)
    quantize = lambda w: fp4.quantize(w, spec, axis=axis_of(spec))  # noqa: E731
    stack = jax.jit(jax.vmap(quantize))(w)
    each = [jax.tree.map(lambda x, i=i: x[i], stack) for i in range(3)]
    expected = jnp.stack([jnp.stack([f(x, b) for x in a]) for b in each])
    diagonal = jnp.stack([expected[i, i] for i in range(3)])
    close = lambda y, e: np.testing.assert_allclose(y, e, atol=1e-4)  # noqa: E731
    close(jax.vmap(f, (0, None))(a, each[0]), expected[0])
    close(jax.vmap(f, (None, 0))(a[0], stack), expected[:, 0])
    close(jax.vmap(f, (1, 0), 1)(a.transpose(1, 0, 2), stack), diagonal.transpose(1, 0, 2))
    close(jax.vmap(jax.vmap(f, (0, None)), (None, 0))(a, stack), expected)
    qa = jax.vmap(lambda x: fp4.quantize(x, ROWS))(a)
    of_dequantized = jnp.stack(
        [x @ b.dequantize() for x, b in zip(qa_values(qa), each, strict=True)]
    )
    close(jax.vmap(f)(qa, stack), of_dequantized)


def qa_values(stack):
    return jax.vmap(lambda q: q.dequantize())(stack)


@pytest.mark.parametrize("options", [{}, interpreted], ids=["auto", "pallas"])
def test_gradient_passes_straight_through(options):
    b = weights(Layer("", 70, 20))
    w = b.dequantize()
    a, g = left(5, 70, "float32")[0], normal(7, 5, 20)
    f = lambda a, b: kernels.scaled_matmul(a, b, **options)  # noqa: E731
    da = jax.grad(lambda a: (f(a, b) * g).sum())(a)
    np.testing.assert_allclose(da, g @ w.T, atol=1e-4)
    stack = jax.tree.map(lambda x: jnp.stack([x, x]), b)
    in_vmap = jax.vmap(jax.grad(lambda a, b: (f(a, b) * g).sum()), (None, 0))(a, stack)
    np.testing.assert_allclose(in_vmap, jnp.stack([da, da]), atol=1e-4)
    loss = lambda a: (jax.vmap(f, (0, None))(a, b) * g[None]).sum()  # noqa: E731
    np.testing.assert_allclose(jax.grad(loss)(jnp.stack([a, 2 * a])), in_vmap, atol=1e-4)
    half = jax.jit(jax.grad(lambda a: f(a, b).astype(jnp.float32).sum()))(a.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        half.astype(jnp.float32), jnp.broadcast_to(w.sum(1), (5, 70)), rtol=1e-2, atol=1e-1
    )


def test_gradient_of_qtensors_is_zero():
    """A QTensor is not differentiated: its amax gets zero, its codes none."""
    a, b = left(5, 32, "quantized")[0], weights(Layer("", 32, 8))
    of_amax = jax.grad(
        lambda amax: kernels.scaled_matmul(a, dataclasses.replace(b, amax=amax)).sum()
    )
    assert of_amax(b.amax) == 0
    _, vjp = jax.vjp(kernels.scaled_matmul, a, b)
    for cotangent, q in zip(vjp(jnp.ones((5, 8))), (a, b), strict=True):
        assert cotangent.codes.dtype == jax.dtypes.float0
        assert not np.asarray(cotangent.block_scales, np.float32).any()
        assert cotangent.amax.shape == q.amax.shape


def test_decoded_weights_give_the_same():
    b = weights(Layer("", 70, 20))
    a = left(5, 70, "bfloat16")[0]
    decoded = jax.jit(kernels.decode)(b)
    assert decoded.shape == b.shape
    assert decoded.nbytes == 2 * 70 * 20
    assert_same_sums(
        kernels.scaled_matmul(a, decoded), kernels.scaled_matmul(a, b, implementation="reference")
    )
    stack = jax.vmap(kernels.decode)(jax.tree.map(lambda x: jnp.stack([x, x]), b))
    assert stack.shape == (2, 70, 20)
    assert jax.vmap(kernels.scaled_matmul, (None, 0))(a, stack).shape == (2, 5, 20)
    grad = lambda b: jax.grad(lambda a: kernels.scaled_matmul(a, b).sum())(a)  # noqa: E731
    assert_same_sums(grad(decoded), grad(b))


class TestRotated:
    """Weights that were rotated along k: the product is that of what dequantize() gives."""

    @functools.cached_property
    def w(self):
        return normal(5, 70, 20)

    @functools.cached_property
    def b(self):
        return fp4.quantize(self.w, fp4.TensorSpec(hadamard=True), axis=0)

    @pytest.mark.parametrize(("kind", "kernel"), diagonal(KINDS, ["auto", "pallas"]))
    def test_product(self, kind, kernel):
        options = interpreted if kernel == "pallas" else {}
        a, values = left(5, 70, kind)
        if kind == "quantized":
            a = fp4.quantize(jnp.asarray(values, jnp.float32), self.b.spec)
            values = np.asarray(a.dequantize(rotated=True))
        y = kernels.scaled_matmul(a, self.b, preferred_element_type=jnp.float32, **options)
        assert y.shape == (5, 20)
        # Two rotated QTensors are multiplied as they are: errors in the padding of k count, too.
        expected = values @ np.asarray(self.b.dequantize(rotated=kind == "quantized"))
        # bfloat16 is rotated in float32 and rounded once, as everywhere
        error = {"bfloat16": 1e-2}.get(kind, 1e-5)
        np.testing.assert_allclose(y, expected, atol=error * np.abs(expected).max())

    def test_decoded(self):
        decoded = kernels.decode(self.b)
        a = left(5, 70, "float32")[0]
        assert (decoded.shape, decoded.values.shape) == ((70, 20), (20, 80))
        y, expected = (kernels.scaled_matmul(a, b) for b in (decoded, self.b))
        np.testing.assert_allclose(y, expected, atol=1e-5)
        assert kernels.explain(a, decoded) == "reference: b is decoded already"

    def test_gradient_and_vmap(self):
        a, g = left(5, 70, "float32")[0], normal(7, 5, 20)
        f = lambda a: (kernels.scaled_matmul(a, self.b) * g).sum()  # noqa: E731
        expected = g @ self.b.dequantize().T
        np.testing.assert_allclose(jax.grad(f)(a), expected, atol=1e-4)
        stack = jnp.stack([a, 2 * a])
        y = jax.vmap(kernels.scaled_matmul, (0, None))(stack, self.b)
        np.testing.assert_allclose(y[1], 2 * y[0], rtol=1e-6)


# Made when a test asks for them: quantizing compiles.
A = functools.cache(lambda: jnp.ones((4, 32)))
B = functools.cache(lambda: weights(Layer("", 32, 8)))
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
    "must be .* in bfloat16": lambda: (A(), kernels.Decoded(jnp.ones((8, 32)), jnp.float32(1)), {}),
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


# ---- who multiplies ----


@pytest.fixture
def on(monkeypatch):
    """on((9, 0)): traces are for such a GPU; cuDNN passes its test unless told otherwise."""

    def set_device(capability, objection=None):
        monkeypatch.setattr(backend, "compute_capability", lambda: capability)
        monkeypatch.setattr(backend, "device_name", lambda: f"GPU {capability}")
        monkeypatch.setattr(cudnn, "objection", lambda capability: objection)

    return set_device


def chosen(m, k=8192, n=8192, **options):
    left, right = shapes(m, k, n, **options)
    return kernels.explain(left, right)


@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (9, 0), (10, 0), (11, 0), (12, 0)])
def test_few_rows_go_to_pallas_and_many_to_the_vendor(on, capability):
    on(capability)
    for m in (1, 16, 17, 64, 128):
        assert chosen(m).startswith(f"pallas: {m} rows, decoded on the way")
    assert chosen(129).startswith("reference: 129 rows, more than 128: b is decoded to bfloat16")
    assert "128.0 MiB" in chosen(4096)
    # float32 enters in three parts
    assert chosen(42, a=jnp.float32).startswith("pallas: 126 rows, as float32 enters in three")
    assert chosen(43, a=jnp.float32).startswith("reference: 129 rows, as float32")


def test_shapes_that_no_tile_divides_are_padded_and_it_is_said(on):
    on((9, 0))
    assert "padded" not in chosen(4, 192, 576)
    assert "padded" not in chosen(4, 448, 448, spec=TILES)
    assert "(70, 33) is padded, that is copied, to multiples of (32, 16)" in chosen(4, 70, 33)


@pytest.mark.parametrize("capability", [(8, 0), (9, 0), (10, 0), (11, 0), (12, 0)])
def test_two_qtensors_go_to_cudnn_on_blackwell(on, capability):
    on(capability)
    for m in (1, 4096):
        choice = chosen(m, a=ROWS)
        assert choice.startswith("cudnn") == (capability[0] >= 10), choice
    on(capability, objection="it was wrong")
    for m, other in ((1, "pallas"), (4096, "reference")):
        choice = chosen(m, a=ROWS)
        assert choice.startswith(other)
        assert choice.endswith("(not cuDNN: it was wrong)") == (capability[0] >= 10)


@pytest.mark.parametrize("capability", [None, (7, 5)])
def test_without_a_fitting_gpu(on, capability):
    on(capability)
    assert chosen(1) == f"reference: GPU {capability} is no NVIDIA GPU since Ampere"
    with pytest.raises(ValueError, match="'pallas' needs an NVIDIA GPU since Ampere"):
        kernels.scaled_matmul(A(), B(), implementation="pallas")
    with pytest.raises(ValueError, match="'cudnn' needs two QTensors and a Blackwell GPU"):
        kernels.scaled_matmul(left(4, 32, "quantized")[0], B(), implementation="cudnn")


def test_what_is_asked_for(on):
    on((10, 0))
    q = left(4, 32, "quantized")[0]
    assert kernels.explain(A(), B(), implementation="reference") == "reference: as asked for"
    assert kernels.explain(q, B(), implementation="pallas").startswith("pallas")
    assert kernels.explain(q, B(), implementation="cudnn").startswith("cudnn")
    assert kernels.explain(A(), kernels.decode(B())) == "reference: b is decoded already"
    with pytest.raises(ValueError, match="a is an array and the device is GPU"):
        kernels.explain(A(), B(), implementation="cudnn")
    on((10, 0), objection="it was wrong")
    assert kernels.explain(q, B(), implementation="cudnn").startswith("reference: as cuDNN cannot")


def test_programs_for_a_gpu_run_on_a_cpu(on):
    """A program traced where a GPU is may be placed on a CPU."""
    on((9, 0))
    a = left(4, 32, "float32")[0]
    y = api.scaled_matmul(a, B())
    assert_same_sums(y, base.scaled_matmul(a, B(), jnp.float32))


@pytest.fixture
def tried(monkeypatch):
    """cuDNN's self-check with a given product in its place."""

    def set_product(product):
        # JAX keeps what it traced before.
        jax.clear_caches()
        monkeypatch.setattr(backend, "local_capability", lambda: (10, 0))
        monkeypatch.setattr(cudnn, "_scaled_matmul", product)

    first_use.forget(CUDNN)
    yield set_product
    first_use.forget(CUDNN)


def exact_product(a, b, a_scales, b_scales):
    """What jax.nn.scaled_matmul computes, for CPU."""
    values = [
        x.astype(jnp.float32) * jnp.repeat(s.astype(jnp.float32), 16, axis=-1)
        for x, s in ((a, a_scales), (b, b_scales))
    ]
    return jnp.einsum("smk,snk->smn", *values)


def test_cudnn_passes_its_test_once(tried):
    calls = []

    def product(*operands):
        calls.append(1)
        return exact_product(*operands)

    tried(product)
    inside_a_trace = []
    jax.jit(lambda x: inside_a_trace.append(cudnn.objection((10, 0))) or x)(jnp.ones(()))
    assert inside_a_trace == [None]
    assert cudnn.objection((10, 0)) is None
    assert len(calls) == 1
    assert "no GPU of compute capability 12.0 here" in cudnn.objection((12, 0))


def test_cudnn_that_is_wrong_or_fails_is_warned_of_once(tried):
    tried(lambda *operands: exact_product(*operands).at[0, 3, 5].add(0.25))
    with pytest.warns(
        RuntimeWarning, match=r"1 of 16384 values are wrong\. fp4jax.kernels does without"
    ):
        assert "wrong" in cudnn.objection((10, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "wrong" in cudnn.objection((10, 0))
    first_use.forget(CUDNN)

    def fails(*operands):
        raise NotImplementedError("no such engine")

    tried(fails)
    with pytest.warns(RuntimeWarning, match=r"cannot run \(NotImplementedError: no such engine\)"):
        assert "failed" in cudnn.objection((10, 0))


@pytest.mark.parametrize("spec", [ROWS, TILES], ids=["rows", "tiles"])
def test_cudnn_product_and_its_vmap(monkeypatch, spec):
    monkeypatch.setattr(cudnn, "_scaled_matmul", exact_product)
    a = left(5, 70, "quantized")[0]
    b = weights(Layer("", 70, 20), spec)
    plan = api._Plan("cudnn", False, None, jnp.dtype(jnp.float32), api.Device("", (10, 0), 1))
    f = lambda a, b: api._by_cudnn(plan, a, b)  # noqa: E731
    expected = base.scaled_matmul(a, b, jnp.float32)
    np.testing.assert_allclose(f(a, b), expected, atol=1e-5)
    # Of constants JAX 0.10 folds 4-bit views wrongly.
    np.testing.assert_allclose(jax.jit(lambda: f(a, b))(), expected, atol=1e-5)
    stack = jax.tree.map(lambda x: jnp.stack([x, x, x]), b)
    y = jax.vmap(jax.vmap(f, (None, 0)), (0, None))(jax.tree.map(lambda x: x[None], a), stack)
    np.testing.assert_allclose(y, jnp.broadcast_to(expected, (1, 3, *expected.shape)), atol=1e-5)


def test_jax_0_11_computes_it_on_cpu():
    """jax.nn.scaled_matmul itself, where it runs without a GPU."""
    if jax.__version_info__ < (0, 11):
        pytest.skip("JAX 0.10 has scaled_matmul on GPUs only")
    a, b = left(5, 70, "quantized")[0], weights(Layer("", 70, 20))
    y = cudnn.product(api._packed(a), api._packed(b))
    scales = [base.tensor_scale(a), base.tensor_scale(b)]
    y = base.scaled(y, scales, jnp.float32)
    np.testing.assert_allclose(y, base.scaled_matmul(a, b, jnp.float32), atol=1e-5)


def test_tiles_fit():
    """Lengths are powers of two, and the parts of k are whole steps."""
    for capability in (None, (8, 0), (8, 9), (9, 0), (10, 0), (12, 0)):
        for m, k, n in (*AWKWARD, (1, 8192, 8192), (128, 8192, 8192), (64, 4096, 28672)):
            tile = tiles.choose_tile(m, n, k, capability=capability, cores=132)
            for length in (tile.m, tile.n, tile.k):
                assert length == backend.next_power_of_two(length) >= 16
            assert tile.k >= 32
            assert tiles.padded(k, tile.k) % (tile.k * tile.split) == 0
