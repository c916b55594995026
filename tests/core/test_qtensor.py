"""QTensor: what is stored where, how many bytes, and life as a pytree."""

import dataclasses
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fp4jax as fp4
from fp4jax import TensorSpec
from tests.oracle import nvfp4 as oracle
from tests.samples import (
    assert_same_bits,
    on_grid,
    sample,
    scale_bytes,
    spec_id,
    unsigned_zero,
)

ROW, TILE, RHT = TensorSpec(), TensorSpec(block=(16, 16)), TensorSpec(hadamard=True)

LAYOUTS = [
    # spec, x's shape, axis, shape of codes, shape of block_scales
    (ROW, (5,), 0, (8,), (1,)),
    (ROW, (48,), -1, (24,), (3,)),
    (ROW, (3, 40), -1, (3, 24), (3, 3)),
    (ROW, (40, 3), 0, (3, 24), (3, 3)),
    (ROW, (2, 20, 3), 1, (2, 3, 16), (2, 3, 2)),
    (ROW, (20, 2, 3), -3, (2, 3, 16), (2, 3, 2)),
    (ROW, (2, 3, 2, 33), 3, (2, 3, 2, 24), (2, 3, 2, 3)),
    (RHT, (2, 20, 3), 1, (2, 3, 16), (2, 3, 2)),
    (TILE, (20, 35), -1, (32, 24), (2, 3)),
    (TILE, (20, 35), (0, 1), (32, 24), (2, 3)),
    (TILE, (20, 35), (1, 0), (48, 16), (3, 2)),
    (TILE, (3, 20, 2, 35), (3, 1), (3, 2, 48, 16), (3, 2, 3, 2)),
    (TILE, (20, 3, 35, 2), (-4, -2), (3, 2, 32, 24), (3, 2, 2, 3)),
]


@jax.jit
def contents(q):
    """All that a QTensor says, in one compilation."""
    return q.codes, q.block_scales, q.unpacked_codes(), q.dequantize(), q.tensor_scale


@pytest.mark.parametrize(("spec", "shape", "axis", "codes", "scales"), LAYOUTS)
def test_layout(spec, shape, axis, codes, scales):
    x = on_grid(sample("normal", shape))
    q = jax.jit(lambda x: fp4.quantize(x, spec, axis))(x)
    assert (q.codes.shape, q.codes.dtype) == (codes, jnp.uint8)
    assert (q.block_scales.shape, q.block_scales.dtype) == (scales, jnp.float8_e4m3fn)
    assert (q.amax.shape, q.amax.dtype) == ((), jnp.float32)
    # 4.5 bits a value (4 + 8/256 in tiles) and one float
    size = 2 * np.prod(codes)
    assert q.nbytes == size // 2 + size // (256 if spec is TILE else 16) + 4
    assert (q.shape, q.ndim, q.dtype) == (shape, len(shape), np.float32)

    packed, block_scales, unpacked, dequantized, tensor_scale = map(np.asarray, contents(q))
    expected = oracle.quantize(x, spec, (-2, -1) if spec is TILE and axis == -1 else axis)
    last = range(-len(expected.axes), 0)
    moved = unsigned_zero(np.moveaxis(expected.codes, expected.axes, last))
    np.testing.assert_array_equal(unsigned_zero(packed & 15), moved[..., 0::2])
    np.testing.assert_array_equal(unsigned_zero(packed >> 4), moved[..., 1::2])
    moved_scales = np.moveaxis(expected.scales_u8, expected.axes, last)
    np.testing.assert_array_equal(scale_bytes(block_scales), moved_scales)
    # A rotated array is as long as it was padded to be rotated, until it is rotated back.
    rotated = (2, 32, 3) if spec is RHT else shape
    cut = expected.codes[tuple(slice(n) for n in rotated)]
    np.testing.assert_array_equal(unsigned_zero(unpacked), unsigned_zero(cut), strict=True)
    in_basis = jax.jit(lambda q: q.dequantize(rotated=True))(q)
    np.testing.assert_array_equal(in_basis, expected.dequantize(), strict=True)
    if spec is not RHT:
        np.testing.assert_array_equal(dequantized, expected.dequantize(), strict=True)
    else:
        assert dequantized.shape == shape
    np.testing.assert_array_equal(tensor_scale, expected.tensor_scale, strict=True)


def test_layout_by_hand():
    q = jax.jit(lambda x: fp4.quantize(x, ROW))(jnp.array([6.0, -3.0, 0.5]))
    # codes 7, 13, 1: the low nibble is the even index
    assert q.codes.tolist() == [0xD7, 0x01, 0, 0, 0, 0, 0, 0]
    assert scale_bytes(q.block_scales).tolist() == [0x7E]
    assert q.amax == 6
    assert q.tensor_scale == np.float32(6) / np.float32(2688)
    assert q.unpacked_codes().tolist() == [7, 13, 1]
    assert q.dequantize().tolist() == [6, -3, 0.5]


BOUNDS = [ROW, TILE, *(TensorSpec(rounding=r) for r in ("stochastic", "stochastic_unbiased"))]
BOUNDS += [TensorSpec(scaling="four_over_six", four_over_six_bound=b) for b in (256, 448)]


@pytest.mark.parametrize("spec", BOUNDS, ids=spec_id)
def test_value_is_code_times_block_scale_times_tensor_scale(spec):
    quantize = jax.jit(lambda x: fp4.quantize(x, spec, key=jax.random.key(0)))
    q = quantize(sample("normal", (32, 48)))
    _, _, codes, dequantized, tensor_scale = map(np.asarray, contents(q))
    assert tensor_scale == q.amax / spec.bound
    magnitudes = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    scales = np.repeat(np.asarray(q.block_scales, np.float64), 16, axis=1)
    scales = np.repeat(scales, 16, axis=0) if spec.block == (16, 16) else scales
    values = np.where(codes < 8, 1, -1) * magnitudes[codes & 7] * scales * float(tensor_scale)
    np.testing.assert_allclose(dequantized, values, rtol=3e-7)
    assert values.any()


def test_dequantize_dtype():
    q = jax.jit(lambda x: fp4.quantize(x, ROW))(sample("normal", (3, 20)))
    default = jax.jit(lambda q: q.dequantize())(q)
    assert default.dtype == jnp.float32
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        assert_same_bits(jax.jit(lambda q, d=dtype: q.dequantize(d))(q), default.astype(dtype))


BATCHED = {"row": (ROW, -1), "column": (ROW, 0), "hadamard": (RHT, 0), "tile": (TILE, (1, 0))}
batched = pytest.mark.parametrize(("spec", "axis"), BATCHED.values(), ids=BATCHED)


def three():
    """Three matrices of different size, so that each needs its own amax."""
    return np.stack([sample("normal", (20, 35), seed) * 4.0**seed for seed in range(3)], dtype="f")


def assert_stack_of(stacked, singles):
    """A QTensor with a leading axis: its contents are those of the single ones, stacked."""
    assert stacked.shape == (len(singles), *singles[0].shape)
    expected = zip(*map(contents, singles), strict=True)
    for ours, parts in zip(contents(stacked), expected, strict=True):
        assert_same_bits(ours, np.stack([np.asarray(part) for part in parts]))


@batched
def test_vmap_scan_and_stack(spec, axis):
    xs = three()
    quantize = jax.jit(lambda x: fp4.quantize(x, spec, axis))
    singles = [quantize(x) for x in xs]
    stacked = jax.jit(jax.vmap(quantize))(xs)
    assert_stack_of(stacked, singles)
    assert_stack_of(
        jax.lax.scan(lambda carry, x: (carry, quantize(x)), 0, jnp.asarray(xs))[1], singles
    )
    assert_stack_of(jax.tree.map(lambda *leaves: jnp.stack(leaves), *singles), singles)
    # and back: vmap over a QTensor, scan over one
    dequantized = stacked.dequantize()
    assert_same_bits(jax.vmap(lambda q: q.dequantize())(stacked), dequantized)
    values = jax.lax.scan(lambda carry, q: (carry, q.dequantize()), 0, stacked)[1]
    assert_same_bits(values, dequantized)


def test_twice_stacked():
    xs = three().reshape(3, 4, 5, 35)
    quantize = jax.jit(lambda x: fp4.quantize(x, ROW, 0))
    stacked = jax.jit(jax.vmap(jax.vmap(quantize)))(xs)
    assert (stacked.shape, stacked.amax.shape) == ((3, 4, 5, 35), (3, 4))
    assert_same_bits(np.asarray(stacked.dequantize())[2, 1], quantize(xs[2, 1]).dequantize())


@batched
def test_jit_boundary_and_flattening(spec, axis):
    q = jax.jit(lambda x: fp4.quantize(x, spec, axis))(three()[0])
    through = jax.jit(lambda q: q)(q)
    assert isinstance(through, fp4.QTensor)
    leaves, tree = jax.tree.flatten(q)
    assert [leaf.dtype for leaf in leaves] == [jnp.uint8, jnp.float8_e4m3fn, jnp.float32]
    for copy in (through, jax.tree.unflatten(tree, leaves)):
        assert (copy.axes, copy.lengths, copy.spec) == (q.axes, q.lengths, q.spec)
        jax.tree.map(assert_same_bits, copy, q)
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(q)]
    assert names == [".codes", ".block_scales", ".amax"]
    # leaves need not be arrays
    assert jax.tree.map(lambda leaf: leaf.ndim, q).amax == 0


def test_static_part_knows_no_batch():
    q = fp4.quantize(jnp.asarray(three()[0]), TILE, (1, 0))
    assert (q.axes, q.lengths, q.spec) == ((-1, -2), (35, 20), TILE)
    assert q.bound == 2688.0
    stacked = jax.tree.map(lambda leaf: leaf[None], q)
    assert jax.tree.structure(stacked) == jax.tree.structure(q)
    assert hash(jax.tree.structure(q)) == hash(jax.tree.structure(stacked))


@batched
def test_eval_shape(spec, axis):
    quantize = jax.jit(lambda x: fp4.quantize(x, spec, axis))
    q, abstract = quantize(three()[0]), jax.eval_shape(quantize, three()[0])
    for field in dataclasses.fields(q):
        real, ours = getattr(q, field.name), getattr(abstract, field.name)
        if field.metadata.get("static"):
            assert real == ours
        else:
            assert (real.shape, real.dtype) == (ours.shape, ours.dtype)
    assert (abstract.shape, abstract.nbytes) == (q.shape, q.nbytes)
    assert jax.eval_shape(lambda q: q.dequantize(), abstract).shape == q.shape


@batched
def test_pickle(spec, axis):
    q = fp4.quantize(jnp.asarray(three()[0]), spec, axis)
    copy = pickle.loads(pickle.dumps(q))
    assert (copy.axes, copy.lengths, copy.spec) == (q.axes, q.lengths, q.spec)
    assert_same_bits(copy.dequantize(), q.dequantize())


class TestRotated:
    """The mark of a rotated array, and both bases."""

    spec = TensorSpec(hadamard=True)

    def test_dequantize_is_close_to_the_array(self):
        for shape, axis in (((20, 35), 0), ((3, 37), -1), ((5, 16, 2), 1)):
            x = sample("normal", shape)
            q = jax.jit(lambda x, axis=axis: fp4.quantize(x, self.spec, axis))(x)
            y = np.asarray(q.dequantize())
            assert y.shape == q.shape == shape
            assert np.linalg.norm(y - x) / np.linalg.norm(x) < 0.2

    def test_bases(self):
        x = jnp.asarray(sample("normal", (3, 37)))
        q = fp4.quantize(x, self.spec)
        basis = q.in_rotated_basis()
        assert (basis.shape, basis.spec) == ((3, 48), ROW)
        assert q.unpacked_codes().shape == q.dequantize(rotated=True).shape == (3, 48)
        assert_same_bits(basis.dequantize(), q.dequantize(rotated=True))
        assert basis.in_rotated_basis() is basis
        back = fp4.inverse_random_hadamard(basis.dequantize())[:, :37]
        assert_same_bits(q.dequantize(), back)
        # the codes are those of the rotated array, quantized
        assert_same_bits(fp4.quantize(fp4.random_hadamard(x), ROW).codes, q.codes)

    def test_others_have_one_basis(self):
        q = fp4.quantize(jnp.asarray(three()[0]), TILE, (1, 0))
        assert q.in_rotated_basis() is q
        assert_same_bits(q.dequantize(rotated=True), q.dequantize())


def test_equality_is_identity():
    """Arrays have no truth value, and a QTensor of them may still be compared and be a key."""
    x = jnp.asarray(sample("normal", (4, 20)))
    a, b = fp4.quantize(x, ROW), fp4.quantize(x, ROW)
    assert a == a
    assert a != b
    assert len({a, b}) == 2
