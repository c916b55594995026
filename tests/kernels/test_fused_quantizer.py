"""The fused quantizer against jnp, byte for byte, in interpret mode.

On CPU XLA chooses the order in which jnp's rotation sums 16 numbers. Rotations are compared on
arrays whose sums are exact, and on general numbers in the order that jnp has on GPUs.
"""

import functools
import operator

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings, strategies as st

import fp4jax as fp4
from fp4jax import TensorSpec
from fp4jax.core import hadamard, reference
from fp4jax.core.blocks import normalize_axes
from fp4jax.core.qtensor import QTensor
from fp4jax.kernels.fused_quantizer import dispatch, fused, selfcheck
from fp4jax.kernels.fused_quantizer.arg_specs import HADAMARD_STOCHASTIC, SPECS
from tests.core.test_golden import FILES, MODES, compare
from tests.kernels.quantized import KEY, KINDS, assert_same, data, interpreted, quantized


@pytest.fixture
def fixed_order(monkeypatch):
    """Rotations of jnp as on GPUs."""
    monkeypatch.setattr(hadamard, "by_platform", lambda *args, cpu, default: default(*args))


# rows, columns in fours, other columns; every spec, dtype, result and kind of padding
CASES = [
    ("packed", "nearest", (7, 33), -1, "float32"),
    ("operand", "nearest", (3, 20, 18), 1, "bfloat16"),
    ("fake", "nearest", (33, 8), 0, "float16"),
    ("packed", "stochastic", (33, 8), 0, "float32"),
    ("operand", "stochastic", (5, 48), -1, "bfloat16"),
    ("fake", "stochastic", (40, 5), 0, "float16"),
    ("packed", "stochastic_unbiased", (7, 33), -1, "bfloat16"),
    ("fake", "stochastic_unbiased", (33, 8), 0, "float32"),
    ("operand", "hadamard", (7, 33), -1, "bfloat16"),
    ("fake", "hadamard", (7, 33), -1, "float32"),
    ("packed", "hadamard+stochastic", (2, 33, 8), 1, "float32"),
    ("operand", "hadamard+stochastic_unbiased", (2, 32), -1, "float32"),
    ("packed", "16x16", (18, 2, 33), (2, 0), "float32"),
    ("packed", "16x16", (40, 24), (1, 0), "bfloat16"),
    ("operand", "16x16 stochastic", (2, 20, 24), (1, 2), "float32"),
    ("fake", "16x16 stochastic_unbiased", (20, 24), (0, 1), "bfloat16"),
]


def compare_bytes(result, spec, shape, axis, dtype):
    """One compilation each for all kinds of numbers."""
    ours = jax.jit(functools.partial(interpreted, result, spec, axis))
    jnps = jax.jit(functools.partial(quantized, reference, result, spec, axis))
    for kind in KINDS:
        if spec.hadamard and kind in ("tiny", "subnormal"):
            continue  # a quarter of these is flushed to zero here, on CPU, in one path or both
        x = jnp.asarray(data(kind, shape)).astype(dtype)
        key = KEY if spec.stochastic else None
        assert_same(ours(x, key), jnps(x, key), kind)


@pytest.mark.parametrize(("result", "name", "shape", "axis", "dtype"), CASES)
@pytest.mark.usefixtures("fixed_order")
def test_same_bytes(result, name, shape, axis, dtype):
    compare_bytes(result, SPECS[name], shape, axis, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
@pytest.mark.usefixtures("fixed_order")
def test_same_bytes_always(name):
    """Every result, dtype and way of loading; more than one program along each axis."""
    spec = SPECS[name]
    for shape, axis in (((1030, 33), 1), ((35, 548), 0), ((50, 257), 0)):
        axis = axis if spec.block == (1, 16) else (axis, 1 - axis)
        for dtype in ("float32", "bfloat16"):
            for result in ("packed", "operand", "fake"):
                compare_bytes(result, spec, shape, axis, dtype)


@pytest.mark.parametrize(("shape", "axis"), [((3, 33), -1), ((48, 6), 0)])
def test_rotation_of_jnp_where_sums_are_exact(shape, axis):
    x = jnp.asarray(data("exact sums", shape))
    arguments = ("packed", HADAMARD_STOCHASTIC, axis, x, KEY)
    q = fp4.quantize(x, HADAMARD_STOCHASTIC, axis, KEY)
    assert_same(interpreted(*arguments), (q.codes, q.block_scales, q.amax))


@settings(max_examples=2)
@given(
    shape=st.lists(st.integers(1, 35), min_size=1, max_size=3).map(tuple),
    data_=st.data(),
)
def test_any_shape(shape, data_):
    specs = [s for s in SPECS.values() if not s.hadamard and (len(shape) > 1 or s.block[0] == 1)]
    spec = data_.draw(st.sampled_from(specs))
    axes = data_.draw(st.permutations(range(len(shape))))
    axis = axes[0] if spec.block == (1, 16) else (axes[0], axes[1])
    dtype = data_.draw(st.sampled_from(["float32", "bfloat16"]))
    x = jnp.asarray(data("wide", shape)).astype(dtype)
    if reason := dispatch.obstacle(shape, spec, normalize_axes(axis, spec.block, x.ndim)):
        assert "random bits belong to positions" in reason
        return
    ours = jax.jit(lambda x: interpreted("packed", spec, axis, x, KEY))(x)
    assert_same(ours, jax.jit(lambda x: quantized(reference, "packed", spec, axis, x, KEY))(x))


@pytest.mark.parametrize("mode", ["1d", "2d", "1d_rht"])
def test_golden(golden, mode):
    """TransformerEngine's bits, of 64 columns in bfloat16 (one compilation)."""

    @functools.cache
    def function(spec, axis):
        def compute(x):
            axes = normalize_axes(axis, spec.block, x.ndim)
            last = tuple(a - x.ndim for a in axes)
            lengths = tuple(x.shape[a] for a in axes)
            q = QTensor(*interpreted("packed", spec, axis, x), last, lengths, spec)
            values = q.dequantize(rotated=True)
            return q.codes, q.unpacked_codes(), q.block_scales, q.amax, values

        return jax.jit(compute)

    file = golden(FILES[0])
    side = "col" if mode == "1d_rht" else "row"
    found = [
        name
        for name in sorted({key.rpartition("/")[0] for key in file.files})
        if name.endswith(f"/{mode}/{side}")
        and ".32x64.bf16" in name
        and not name.startswith("fp32_subnormal")
    ]
    assert len(found) > 10
    assert MODES[mode].scaling == "amax"
    for entry in found:
        compare(file, entry, function, transpose=False)


def test_vmap_is_a_loop():
    x = jnp.asarray(data("normal", (3, 20, 8)))
    keys = jax.random.split(KEY, 3)
    one = jax.jit(lambda x, key: interpreted("packed", SPECS["stochastic"], 0, x, key))
    together = jax.vmap(one)(x, keys)
    for i in range(3):
        assert_same(jax.tree.map(operator.itemgetter(i), together), one(x[i], keys[i]))


SELF_CHECKS = [
    ("hadamard+stochastic", "float32", "operand", "rows"),
    ("nearest", "float32", "operand", "odd columns"),
    ("16x16", "float32", "operand", "columns"),
    ("hadamard+stochastic", "bfloat16", "packed", "columns"),
    ("hadamard+stochastic", "bfloat16", "fake", "columns"),
]


@pytest.mark.parametrize(
    ("name", "dtype", "result", "kind"),
    [pytest.param(*c, marks=[pytest.mark.slow] * bool(i % 2)) for i, c in enumerate(SELF_CHECKS)],
)
def test_right_kernels_pass_the_self_check(name, dtype, result, kind):
    assert selfcheck.difference(SPECS[name], dtype, result, kind, interpret=True) is None


@pytest.mark.parametrize("result", ["packed", "fake"])
def test_a_given_amax(result):
    """As of a calibration: what exceeds it is clamped as jnp clamps it, but for NaN and Inf."""
    spec, axes = TensorSpec(amax="static"), (1,)
    ours = jax.jit(lambda x, a: getattr(fused, result)(x, None, spec, axes, a, interpret=True))
    theirs = jax.jit(lambda x, a: getattr(reference, result)(x, None, spec, axes, a))
    for kind in ("normal", "inf", "nan"):
        for amax in map(jnp.float32, (1.5, jnp.inf)):
            x = jnp.asarray(data(kind, (4, 32)))
            assert_same(ours(x, amax), theirs(x, amax), kind)
