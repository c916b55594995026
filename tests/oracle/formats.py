"""The two small number formats of NVFP4: E2M1 codes for elements, E4M3 bytes for block scales."""

import ml_dtypes
import numpy as np

# Magnitude of the codes 0..7; bit 3 of a code is the sign. 2 exponent bits, 1 mantissa bit,
# no Inf, no NaN.
E2M1 = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], np.float32)
E4M3_MAX = np.float32(448)


def e2m1_decode(codes: np.ndarray) -> np.ndarray:
    """float32 value of each 4-bit code; code 8 (minus zero) decodes to -0.0."""
    magnitude = E2M1[codes & 7]
    return np.where(codes & 8, -magnitude, magnitude)


def _sign_and_magnitude(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(8 where v < 0 else 0, |v| clamped to 6). NaN, -0.0 give (0, 0), as in TE's reference."""
    sign = np.where(v < 0, 8, 0).astype(np.uint8)
    return sign, np.where(np.isnan(v), np.float32(0), np.minimum(np.abs(v), np.float32(6)))


def e2m1_nearest(v: np.ndarray) -> np.ndarray:
    """Codes of float32 v: clamp to +-6, round to nearest, ties to the even code.

    0.25 -> 0, 0.75 -> 1, 2.5 -> 2, 5 -> 4
    """
    sign, y = _sign_and_magnitude(v)
    code = np.zeros(y.shape, np.uint8)
    for lower in range(7):
        middle = (E2M1[lower] + E2M1[lower + 1]) / 2  # exact
        upper_is_even = lower % 2 == 1
        code += (y >= middle) if upper_is_even else (y > middle)
    return sign | code


def e2m1_stochastic(v: np.ndarray, bits: np.ndarray, n_bits: int) -> np.ndarray:
    """Codes of float32 v: clamp to +-6, round the magnitude y up or down by n_bits random bits.

    step = 0.5 for y < 2, 1 for y < 4, else 2;   lo = floor(y / step);   frac = y / step - lo
    up iff frac * 2^n + bits >= 2^n, so P(up) = floor(frac * 2^n) / 2^n.
    All of it is exact in float64.
    """
    if bits.min(initial=0) < 0 or bits.max(initial=0) >= 2**n_bits:
        raise ValueError(
            f"random bits must lie in [0, 2^{n_bits}), got [{bits.min()}, {bits.max()}]"
        )
    sign, y = _sign_and_magnitude(v)
    y = y.astype(np.float64)
    step = np.where(y < 2, 0.5, np.where(y < 4, 1.0, 2.0))
    lo = np.floor(y / step)
    up = (y / step - lo) * 2**n_bits + bits.astype(np.float64) >= 2**n_bits
    return sign | np.searchsorted(E2M1, (lo + up) * step).astype(np.uint8)


def e4m3_bytes(s: np.ndarray) -> np.ndarray:
    """uint8 bytes of float32 s >= 0: clamp to 448, round to nearest even, no lower clamp.

    Every NaN is 0xff, as TransformerEngine's reference stores it.
    """
    clamped = np.minimum(s, E4M3_MAX)  # keeps NaN
    rounded = clamped.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    return np.where(np.isnan(s), np.uint8(0xFF), rounded)


def e4m3_decode(scales_u8: np.ndarray) -> np.ndarray:
    """float32 value of each E4M3 byte."""
    return scales_u8.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
