"""Formats with other elements and scales than NVFP4's, from their published rules.

Elements are what ml_dtypes casts to (round to nearest, ties to even; clamped to the largest
number first), integers what np.rint gives. Scales, with b the largest magnitude that one serves, L
the largest element and E(x) = floor(log2(x)):

    E8M0     floor  2^(E(b) - E(L))                  OCP MX v1.0, section 6.3
             ceil   2^(ceil(log2(b)) - E(L))         torchao's modes, and cuBLAS's for rceil:
             rceil  2^ceil(log2(b / L))              "ROUND UP" of b / L
             even   2^(E(b') - E(L)), b' is b rounded to the elements' mantissa, ties away from zero
             exponents are clamped to [-127, 127]; NaN and Inf make the scale NaN; 0 gives 2^-127
    float32  fl(b / L), and x * min(fl(1 / s), FLT_MAX)
"""

import math
from dataclasses import dataclass

import ml_dtypes
import numpy as np

F32 = np.float32
FLT_MAX = np.finfo(F32).max
DTYPES = {
    "E2M1": ml_dtypes.float4_e2m1fn,
    "E2M3": ml_dtypes.float6_e2m3fn,
    "E3M2": ml_dtypes.float6_e3m2fn,
    "E4M3": ml_dtypes.float8_e4m3fn,
    "E5M2": ml_dtypes.float8_e5m2,
}


@dataclass
class Quantized:
    """Codes uint8 (one each), scales (E8M0 bytes, float32 or one float32) and decoded float32."""

    codes: np.ndarray
    scales: np.ndarray
    values: np.ndarray


def largest(elements: str) -> float:
    """The largest number of the elements."""
    if elements.startswith("INT"):
        return 2.0 ** (int(elements[3:]) - 1) - 1
    return float(ml_dtypes.finfo(DTYPES[elements]).max)


def decode(elements: str, codes: np.ndarray) -> np.ndarray:
    """float64 values of codes."""
    if elements.startswith("INT"):
        bits = int(elements[3:])
        return np.where(codes >= 2 ** (bits - 1), codes.astype(float) - 2**bits, codes)
    return codes.view(DTYPES[elements]).astype(np.float64)


def nearest(elements: str, y: np.ndarray) -> np.ndarray:
    """Codes of float32 numbers; 0 for NaN."""
    y = np.where(np.isnan(y), F32(0), np.clip(y, -largest(elements), largest(elements)))
    if elements.startswith("INT"):
        return np.rint(y).astype(np.int64).astype(np.uint8) & np.uint8(2 ** int(elements[3:]) - 1)
    return y.astype(F32).astype(DTYPES[elements]).view(np.uint8)


def exponent(b: float, elements: str, rule: str) -> int:
    """The E8M0 byte of one block."""
    if not math.isfinite(b):
        return 255
    if b == 0:
        return 0
    e_max = math.frexp(largest(elements))[1] - 1
    floor = math.frexp(b)[1] - 1
    if rule == "floor":
        e = floor - e_max
    elif rule == "ceil":
        e = floor + (b > 2.0**floor) - e_max
    elif rule == "rceil":
        e = math.frexp(b)[1] - math.frexp(largest(elements))[1] - 1
        while b > largest(elements) * 2.0**e:
            e += 1
    else:
        unit = 2.0 ** (floor - _mantissa(elements))
        rounded = math.floor(b / unit + 0.5) * unit
        e = math.frexp(rounded)[1] - 1 - e_max
    return min(max(e, -127), 127) + 127


def _mantissa(elements: str) -> int:
    """Bits after the leading one of the largest elements."""
    return int(elements[3:]) - 2 if elements.startswith("INT") else int(elements[3:])


def quantize(x: np.ndarray, elements: str, block: int | None, scale: str, rule: str) -> Quantized:
    """Quantizes float32 x along its last axis, or as one tensor if there is no block."""
    with np.errstate(all="ignore"):
        if block is None:
            s, e = _float32(np.abs(x).max(), elements)
            codes = nearest(elements, x * e)
            return Quantized(codes, s, (decode(elements, codes) * s).astype(F32))
        padded = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % block)])
        blocks = padded.reshape(*x.shape[:-1], -1, block)
        b = np.abs(blocks).max(-1)
        if scale == "e8m0":
            scales = np.vectorize(lambda b: exponent(float(b), elements, rule), otypes=[int])(b)
            factor = np.where(scales == 255, np.nan, 2.0 ** (scales - 127.0))
            y = (blocks / factor[..., None]).astype(F32)
            scales = scales.astype(np.uint8)
        else:
            scales, e = _float32(b, elements)
            factor, y = scales.astype(np.float64), blocks * e[..., None]
        codes = nearest(elements, y)
        values = (decode(elements, codes) * factor[..., None]).astype(F32)
    n = x.shape[-1]
    return Quantized(
        codes.reshape(padded.shape)[..., :n], scales, values.reshape(padded.shape)[..., :n]
    )


def _float32(b, elements: str):
    """s and its reciprocal."""
    s = np.asarray(b, F32) / F32(largest(elements))
    return s, np.minimum(F32(1) / s, FLT_MAX)
