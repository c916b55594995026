"""Codes and block scales are decoded exactly: all of them, by the kernel and by its PTX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fp4jax.core.formats import E2M1_MAGNITUDES
from fp4jax.kernels.block_scaled_matmul import base, decode, pallas_triton, tiles
from fp4jax.kernels.block_scaled_matmul.operands import Packed
from tests import ptx

CODE_VALUES = np.concatenate([E2M1_MAGNITUDES, -E2M1_MAGNITUDES])
# All finite, non-negative E4M3 bytes.
SCALE_BYTES = np.arange(0x7F, dtype=np.uint8)
SCALE_VALUES = SCALE_BYTES.view(jnp.float8_e4m3fn).astype(np.float64)


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
