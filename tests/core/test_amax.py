"""What amax spans: the tensor, each example, each row, a given value, all shards."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import fp4jax as fp4
from fp4jax.kernels import scaled_matmul
from tests.oracle import nvfp4 as oracle
from tests.samples import KINDS, assert_same_bits, sample

# Small integers times powers of two: rotating 16 of them is exact, in any order.
X = jnp.round(2 * sample("normal", (8, 5, 40))) * jnp.exp2(jnp.arange(8.0))[:, None, None]
KEY = jax.random.key(3)
WAYS = {
    "nearest": {},
    "stochastic": {"rounding": "stochastic"},
    "unbiased": {"rounding": "stochastic_unbiased"},
    "rotated": {"hadamard": True},
    "four_over_six": {"scaling": "four_over_six"},
    "mae": {"scaling": "four_over_six", "four_over_six_error": "mae"},
}
ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def assert_same(a: fp4.QTensor, b: fp4.QTensor) -> None:
    """Codes, scales, amax and values, whatever is said of the amax's shape."""
    for name in ("codes", "block_scales", "amax"):
        first, second = (getattr(q, name).reshape(-1) for q in (a, b))
        assert_same_bits(*(a.view(jnp.uint8) if a.itemsize == 1 else a for a in (first, second)))
    assert_same_values(a.dequantize(), b.dequantize(), a.spec)


def assert_same_values(a, b, spec: fp4.TensorSpec) -> None:
    """Equal bits; what was rotated back is a sum of 16 numbers, in an order that is XLA's."""
    if not spec.hadamard:
        assert_same_bits(a.reshape(-1), b.reshape(-1))
    np.testing.assert_allclose(a.reshape(-1), b.reshape(-1), rtol=0, atol=1e-6 * np.abs(b).max())


@ways
@pytest.mark.parametrize("axis", [-1, -2])
def test_an_example_is_a_tensor(way, axis):
    if "stochastic" in way.get("rounding", ""):
        pytest.skip("bits belong to places of the whole array")
    q = fp4.quantize(X, fp4.TensorSpec(amax="example", **way), axis)
    assert (q.amax.shape, q.tensor_scale.shape) == ((8, 1, 1), (8, 1, 1))
    each = jax.vmap(lambda x: fp4.quantize(x, fp4.TensorSpec(**way), axis))(X)
    assert_same(q, each)
    assert_same_values(fp4.fake_quantize(X, q.spec, axis), q.dequantize(), q.spec)


@ways
@pytest.mark.parametrize("axis", [-1, 1, 0])
def test_a_row_is_a_tensor(way, axis):
    """TransformerEngine's row-scaled NVFP4: every row has the bits of a tensor of one row."""
    if "stochastic" in way.get("rounding", ""):
        pytest.skip("bits belong to places of the whole array")
    q = fp4.quantize(X, fp4.TensorSpec(amax="row", **way), axis)
    rows = jnp.moveaxis(X, axis, -1)
    assert q.amax.shape == (*rows.shape[:-1], 1)
    each = jax.vmap(lambda x: fp4.quantize(x, fp4.TensorSpec(**way)))(
        rows.reshape(-1, rows.shape[-1])
    )
    assert_same_bits(q.codes.reshape(each.codes.shape), each.codes)
    assert_same_bits(q.amax.reshape(-1), each.amax)
    expected = jnp.moveaxis(each.dequantize().reshape(rows.shape), -1, axis)
    assert_same_values(q.dequantize(), expected, q.spec)
    assert_same_values(fp4.fake_quantize(X, q.spec, axis), expected, q.spec)


@ways
@pytest.mark.parametrize("amax", ["example", "row", "static"])
def test_an_outlier_changes_no_other_example(way, amax):
    spec, given = fp4.TensorSpec(amax=amax, **way), 300.0 if amax == "static" else None
    run = functools.partial(fp4.fake_quantize, spec=spec, key=KEY, amax=given)
    changed = X.at[3, 2, 7].set(1e6)
    plain, outlier = run(X), run(changed)
    others = np.arange(8) != 3
    assert_same_values(plain[others], outlier[others], spec)
    assert (plain[3] != outlier[3]).any()
    tensor = functools.partial(fp4.fake_quantize, spec=fp4.TensorSpec(**way), key=KEY)
    assert (tensor(X)[others] != tensor(changed)[others]).any()


@ways
@pytest.mark.parametrize("block", [(1, 16), (16, 16)])
def test_static_is_dynamic_on_the_batch_that_sets_it(way, block):
    if way.get("hadamard") and block == (16, 16):
        pytest.skip("tiles are not rotated")
    dynamic = fp4.quantize(X, fp4.TensorSpec(block=block, **way), key=KEY)
    spec = fp4.TensorSpec(block=block, amax="static", **way)
    assert_same(fp4.quantize(X, spec, key=KEY, amax=dynamic.amax), dynamic)
    fake = fp4.fake_quantize(X, spec, key=KEY, amax=dynamic.amax)
    assert_same_values(fake, dynamic.dequantize(), spec)
    traced = jax.jit(lambda x, a: fp4.quantize(x, spec, key=KEY, amax=a))(X, dynamic.amax)
    assert_same(traced, dynamic)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["nearest", "four_over_six", "mae"])
def test_rows_equal_the_oracle(kind, way):
    """TransformerEngine's python reference, of which each row has its own global amax."""
    magnitudes = np.exp2(np.arange(-60, 66, 18)).astype(np.float32)
    x = sample(kind, (7, 37)) * magnitudes[:, None]
    x[3] = 0
    spec = fp4.TensorSpec(**WAYS[way])
    q = fp4.quantize(x, dataclasses.replace(spec, amax="row"))
    for i, row in enumerate(x):
        expected = oracle.quantize(row, spec, -1)
        assert q.amax[i, 0] == expected.amax
        assert_same_bits(q.block_scales.view(jnp.uint8)[i], jnp.asarray(expected.scales_u8))
        # The sign of a zero code does not count.
        np.testing.assert_array_equal(q.dequantize()[i], expected.dequantize())


def test_what_exceeds_a_static_amax_is_clamped():
    x = jnp.array([1.0, 5.0, -100.0, 0.5] + [0.0] * 12)
    y = fp4.fake_quantize(x, fp4.TensorSpec(amax="static"), amax=6.0)
    assert y.tolist()[:4] == [1.0, 4.0, -6.0, 0.5]
    gradient = jax.grad(
        lambda x: fp4.fake_quantize(x, fp4.TensorSpec(amax="static"), amax=6.0).sum()
    )
    assert_same_bits(gradient(x), jnp.ones(16))


@ways
def test_shards_have_the_amax_of_the_whole(way):
    spec = fp4.TensorSpec(**way)
    whole = fp4.quantize(X, spec, key=KEY)
    of_part = functools.partial(fp4.quantize, spec=spec, key=KEY, axis_name="i")
    lanes = jax.vmap(of_part, axis_name="i")(X)
    mesh = jax.make_mesh((8,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    fake = functools.partial(fp4.fake_quantize, spec=spec, key=KEY, axis_name="i")
    for check in (True, False):
        sharded = jax.shard_map(fake, mesh=mesh, in_specs=P("i"), out_specs=P("i"), check_vma=check)
        assert_same_values(jax.jit(sharded)(X), lanes.dequantize(), spec)
    assert_same_bits(lanes.amax, jnp.full(8, whole.amax))
    if not spec.stochastic:
        assert_same_values(lanes.dequantize(), whole.dequantize(), spec)
        return
    # Lanes of equal data draw bits of their own.
    equal = jax.vmap(of_part, axis_name="i")(jnp.broadcast_to(X[:1], X.shape))
    assert len({bytes(np.asarray(codes)) for codes in equal.codes}) == 8


def test_nan_in_one_shard_is_in_all():
    x = X.at[2, 0, 0].set(jnp.nan)
    y = jax.vmap(lambda x: fp4.fake_quantize(x, fp4.TensorSpec(), axis_name="i"), axis_name="i")(x)
    assert jnp.isnan(y).all()
    rows = fp4.fake_quantize(x, fp4.TensorSpec(amax="row"))
    assert jnp.isnan(rows[2, 0]).all()
    assert jnp.isfinite(rows.at[2, 0].set(0)).all()


@pytest.mark.parametrize("amax", ["example", "row"])
def test_transformations_and_special_shapes(amax):
    spec = fp4.TensorSpec(amax=amax)
    stacked = jax.vmap(lambda x: fp4.quantize(x, spec))(X)
    each = [fp4.quantize(x, spec) for x in X]
    assert_same_bits(stacked.dequantize(), jnp.stack([q.dequantize() for q in each]))
    assert_same_bits(stacked.tensor_scale, jnp.stack([q.tensor_scale for q in each]))
    _, values = jax.lax.scan(lambda c, q: (c, q.dequantize()), 0, stacked)
    assert_same_bits(values, stacked.dequantize())
    for shape in [(0, 3, 16), (2, 0, 16), (2, 3, 0)]:
        assert fp4.quantize(jnp.zeros(shape), spec).dequantize().shape == shape
    zeros = fp4.fake_quantize(X.at[0].set(0), spec)
    assert_same_bits(zeros[0], jnp.zeros((5, 40)))
    q = fp4.quantize(X[0], spec)
    with pytest.raises(ValueError, match=r"amax has shape \(5, 1\)"):
        scaled_matmul(q, fp4.quantize(jnp.ones((40, 3)), fp4.TensorSpec(), axis=0))


def test_a_given_amax_takes_the_place_of_the_tensors():
    static = fp4.quantize(X, fp4.TensorSpec(amax="static"), amax=3.0)
    given = fp4.quantize(X, fp4.TensorSpec(), amax=3.0)
    assert given.spec == static.spec
    assert_same_bits(given.codes, static.codes)
    fake = fp4.fake_quantize(X, fp4.TensorSpec(), amax=3.0)
    assert_same_bits(fake, static.dequantize(X.dtype))


NONFINITE = {
    **WAYS,
    "tiles": {"block": (16, 16)},
    "learned": {"amax": "learned"},
    "fp8": {"format": "fp8"},
    "int8": {"format": "int8"},
}


@pytest.mark.parametrize("way", NONFINITE.values(), ids=NONFINITE)
def test_a_given_amax_hides_neither_nan_nor_inf(way):
    """They stay in their block, or alone in formats without blocks; all else is as it was."""
    spec = fp4.TensorSpec(**way)

    @jax.jit
    def both(x):
        q = fp4.quantize(x, spec, key=KEY, amax=3.0)
        return fp4.fake_quantize(x, spec, key=KEY, amax=3.0), q.dequantize()

    largest = np.finfo(np.float32).max
    finite = jnp.where(jnp.isfinite(X).at[0, 0, 3].set(False), X, largest)
    size = {None: 1, 16: 16}[spec.format.block] * (5 if spec.tiles else 1)
    for bad in (jnp.inf, -jnp.inf, jnp.nan):
        for y, without in zip(both(X.at[0, 0, 3].set(bad)), both(finite), strict=True):
            hidden = jnp.isnan(y)
            assert int(hidden.sum()) == int(hidden[0, :, :16].sum()) == size
            assert jnp.isfinite(without).all()
            assert_same_bits(jnp.where(hidden, 0, y), jnp.where(hidden, 0, without))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spec": {"amax": "static"}}, "the spec has amax='static' but none is given"),
        ({"spec": {"amax": "static"}, "amax": jnp.ones(3)}, r"has shape \(3,\) and dtype float32"),
        ({"spec": {"amax": "static"}, "amax": jnp.int32(3)}, "dtype int32; give one"),
        ({"spec": {"amax": "row"}, "amax": 3.0}, "amax is given, but the spec, with amax='row'"),
        ({"spec": {"clip": 0.5}, "amax": 3.0}, "and clip=0.5, in nvfp4, has no use for it"),
        ({"spec": {"format": "mxfp4"}, "amax": 3.0}, "mxfp4 has no tensor scale, only"),
        ({"amax": -3.0}, "the amax of the spec is -3.0; give one non-negative float"),
        ({"amax": np.float32(-3)}, "the amax of the spec is -3.0; give one"),
        (
            {"spec": {"amax": "row"}, "axis_name": "i"},
            "axis_name is 'i' with TensorSpec.amax='row'",
        ),
        ({"spec": {"amax": "example"}, "axis": 0}, "axis is 0, the leading one, along which"),
        (
            {"spec": {"amax": "row"}, "implementation": "fused"},
            "amax='row' has several tensor scales; the kernels take one",
        ),
    ],
)
def test_mistakes(options, message):
    spec = fp4.TensorSpec(**options.pop("spec", {}))
    with pytest.raises(ValueError, match=message):
        fp4.quantize(X, spec, **options)
    with pytest.raises(ValueError, match=message):
        fp4.fake_quantize(X, spec, **options)


def test_tiles_lie_in_one_tensor():
    with pytest.raises(ValueError, match=r"TensorSpec.amax is 'row' with block=\(16, 16\)"):
        fp4.TensorSpec(block=(16, 16), amax="row")
