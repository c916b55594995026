"""TransformerEngine's bits: codes, scale bytes, amax and values of the golden vectors.

The vectors are the full files where $FP4JAX_SHARED has them, else the subset in tests/golden.
Compared is every array except those of the kind fp32_subnormal (XLA on CPU flushes subnormal inputs
to zero) and deq_two_level (torchao's order of products). Zero codes are compared without their
sign: TransformerEngine's kernels and its Python reference differ in it.
"""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fp4jax as fp4
from fp4jax import TensorSpec
from tests.samples import scale_bytes, unsigned_zero

MODES = {
    "1d": TensorSpec(),
    "2d": TensorSpec(block=(16, 16)),
    "1d_rht": TensorSpec(hadamard=True),
    "1d_4o6_mse_256": TensorSpec(scaling="four_over_six"),
    "1d_4o6_mae_256": TensorSpec(scaling="four_over_six", four_over_six_error="mae"),
    "1d_4o6_mse_448": TensorSpec(scaling="four_over_six", four_over_six_bound=448),
    "2d_4o6_mse_256": TensorSpec(scaling="four_over_six", block=(16, 16)),
}
ARRAYS = ("codes", "packed", "scale_u8", "amax", "deq")
FILES = ("nvfp4_te_ref_public.npz", "nvfp4_te_ref_nonfinite.npz")
# Of 18 kinds in float32 and bfloat16: RHT bfloat16's columns, four-over-six 32x64's rows only.
FULL = {"1d": 144, "2d": 144, "1d_rht": 36} | {mode: 36 for mode in MODES if "4o6" in mode}
# Of 18 kinds 16x16 in both dtypes, 5 as 32x64 in float32 (RHT: bfloat16); 8 of four-over-six.
SUBSET = {"1d": 82, "2d": 82, "1d_rht": 23} | {mode: 8 for mode in MODES if "4o6" in mode}
ENTRIES = FULL if os.environ.get("FP4JAX_SHARED") else SUBSET
# Those of shape 32x64: all of four-over-six, half of the rest of the full file.
LARGER = {
    mode: n if "4o6" in mode else n // 2 if ENTRIES is FULL else 5 * (1 if "rht" in mode else 2)
    for mode, n in ENTRIES.items()
}
NONFINITE = 8 if ENTRIES is FULL else 4


def compute(spec, axis, x):
    q = fp4.quantize(x, spec, axis)
    return q.codes, q.unpacked_codes(), q.block_scales, q.amax, q.dequantize(rotated=True)


def eager(spec, axis):
    return functools.partial(compute, spec, axis)


@functools.cache
def jitted(spec, axis):
    return jax.jit(eager(spec, axis))


def entries(file, mode):
    """<case>/<mode>/<side> of all that is compared, in order."""
    names = {key.rpartition("/")[0] for key in file.files if key.split("/")[1] == mode}
    return sorted(name for name in names if not name.startswith("fp32_subnormal"))


def unpack(packed):
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(packed.shape[0], -1)


def compare(file, entry, function, transpose=True):
    """Rows along the last axis; columns along the first, and along the last of the transpose."""
    case, mode, side = entry.split("/")
    spec = MODES[mode]
    golden = {array: file[f"{entry}/{array}"] for array in ARRAYS}
    rows = jnp.asarray(file[f"{case}/x"], jnp.bfloat16 if case.endswith("bf16") else jnp.float32)
    first = 0 if spec.block == (1, 16) else (1, 0)
    ways = [(rows, -1)] if side == "row" else [(rows, first), (rows.T, -1)][: 1 + transpose]
    for x, axis in ways:
        packed, codes, scales, amax, deq = map(np.asarray, function(spec, axis)(x))
        if axis == first:
            codes, deq = codes.T, deq.T
        if spec.block == (16, 16):
            scales = np.repeat(scales, 16, axis=0)
        for ours, theirs, array in (
            (unsigned_zero(codes), unsigned_zero(golden["codes"]), "codes"),
            (unsigned_zero(unpack(packed)), unsigned_zero(unpack(golden["packed"])), "packed"),
            (scale_bytes(scales), golden["scale_u8"], "scale_u8"),
            (amax, golden["amax"], "amax"),
            (deq, golden["deq"], "deq"),
        ):
            message = f"{array} of {entry}, axis {axis}"
            np.testing.assert_array_equal(ours, theirs, message, strict=True)


@pytest.mark.parametrize("mode", MODES)
def test_public_jit(vectors, mode, record_property):
    file = vectors(FILES[0])
    for entry in entries(file, mode):
        compare(file, entry, jitted)
    record_property("entries", len(entries(file, mode)))
    assert len(entries(file, mode)) == ENTRIES[mode]


@pytest.mark.parametrize("mode", MODES)
def test_public_eager(vectors, mode):
    file = vectors(FILES[0])
    larger = [entry for entry in entries(file, mode) if ".32x64." in entry]
    for entry in larger:
        compare(file, entry, eager, transpose=False)
    assert len(larger) == LARGER[mode]


@pytest.mark.parametrize("mode", ["1d", "2d"])
@pytest.mark.parametrize("function", [jitted, eager])
def test_nonfinite(vectors, mode, function):
    file = vectors(FILES[1])
    for entry in entries(file, mode):
        compare(file, entry, function)
    assert len(entries(file, mode)) == NONFINITE


@pytest.mark.parametrize("name", FILES)
def test_no_key_is_left_out(vectors, name):
    keys = {key for key in vectors(name).files if not key.startswith("fp32_subnormal")}
    compared = {
        f"{entry}/{array}"
        for mode in MODES
        for entry in entries(vectors(name), mode)
        for array in ARRAYS
    }
    inputs = {f"{entry.split('/')[0]}/x" for entry in compared}
    torchao = {key for key in keys if key.endswith("/deq_two_level")}
    assert keys == compared | inputs | torchao


@pytest.mark.parametrize("array", ARRAYS)
def test_comparison_can_fail(vectors, array):
    """One code, one byte or one last bit off is found."""
    entry = "normal.32x64.f32/1d/row"
    keys = [f"{entry}/{name}" for name in ARRAYS]
    file = {key: np.array(vectors(FILES[0])[key]) for key in [*keys, "normal.32x64.f32/x"]}
    compare(file, entry, jitted)
    file[f"{entry}/{array}"].reshape(-1)[:1].view(np.uint8)[0] ^= 1
    with pytest.raises(AssertionError, match=f"{array} of normal"):
        compare(file, entry, jitted)
