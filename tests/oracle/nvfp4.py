"""NVFP4 quantization with TransformerEngine's two-level arithmetic, one float32 rounding at a time.

Source: numerics.md 1.1 column TE and 1.3.
A = max|x| over the tensor, b = max|x| over a block, fl = one fp32 rounding:

    S_enc = min(fl(bound / A), FLT_MAX), but 1 if A == 0 or S_enc == 0      S_dec = fl(1 / S_enc)
    s     = e4m3(min(fl(b * fl(S_enc * sixth)), 448))                       block scale
    E     = min(fl(1 / fl(s * S_dec)), FLT_MAX)                             encode multiplier
    code  = e2m1(clamp(fl(x * E), -6, 6))

    rounding             bound                sixth       random bits
    nearest              2688 = 6 * 448       fl(1/6)     -
    stochastic           2688                 fl(1/6)     8
    stochastic_unbiased  fl(2688 * 16 / 17)   fl(17/96)   24      (no block maximum is clipped)

No special case for NaN or Inf: A = NaN makes every scale byte 0xff and every code 0;
A = inf makes S_enc = 1.
"""

from dataclasses import dataclass

import numpy as np

from .blocks import block_max, block_sum, expand, pad
from .formats import E4M3_MAX, e2m1_decode, e2m1_nearest, e2m1_stochastic, e4m3_bytes, e4m3_decode
from .hadamard import rotate, rotate_back

F32 = np.float32
FLT_MAX = np.finfo(F32).max
RANDOM_BITS = {"stochastic": 8, "stochastic_unbiased": 24}


@dataclass
class Quantized:
    """One quantized array.

    codes      uint8, one E2M1 code per element, x's axis order, block axes zero-padded to 16
    scales_u8  uint8, E4M3 bytes, x's axis order, length ceil(n / 16) on each block axis
    amax       float32, A (after RHT if any)
    bound      float32, tensor scale = A / bound
    axes       the block axes (1 or 2, non-negative)
    shape      x's shape
    hadamard   whether codes are in the rotated basis
    """

    codes: np.ndarray
    scales_u8: np.ndarray
    amax: np.float32
    bound: np.float32
    axes: tuple[int, ...]
    shape: tuple[int, ...]
    hadamard: bool

    @property
    def tensor_scale(self) -> np.float32:
        """fl(A / bound)."""
        with np.errstate(all="ignore"):
            return F32(self.amax / self.bound)

    def operand(self) -> np.ndarray:
        """code x block scale, float32 and exact.

        In x's shape, or with RHT the padded length in the rotated basis.
        """
        return self._crop(e2m1_decode(self.codes) * expand(e4m3_decode(self.scales_u8), self.axes))

    def dequantize(self) -> np.ndarray:
        """float32 fl(fl(fl(s * A) * fl(1 / bound)) * v), shape and basis as operand()."""
        with np.errstate(all="ignore"):
            scale = (e4m3_decode(self.scales_u8) * self.amax) * (F32(1) / self.bound)
            return self._crop(expand(scale, self.axes) * e2m1_decode(self.codes))

    def restore(self) -> np.ndarray:
        """dequantize(), rotated back and cropped to x's shape; float32."""
        values = self.dequantize()
        if self.hadamard:
            with np.errstate(all="ignore"):
                values = rotate_back(values, self.axes[0])
        return values[tuple(slice(n) for n in self.shape)]

    def _crop(self, padded: np.ndarray) -> np.ndarray:
        return padded if self.hadamard else padded[tuple(slice(n) for n in self.shape)]


def quantize(
    x: np.ndarray,
    spec,
    axis: int | tuple[int, int],
    bits: np.ndarray | None = None,
    amax: float | None = None,
) -> Quantized:
    """Quantize x (float32 or bfloat16, any rank) as spec says.

    axis: an int for 1x16 blocks; a pair (rows, columns) for 16x16 tiles.
    amax: A where it is given; else spec.clip * max|x|.
    bits: for stochastic specs only, integers in [0, 2^8) or [0, 2^24), of the padded array's shape.
    """
    axes = _axes(x, spec, axis)
    with np.errstate(all="ignore"):
        padded = pad(x, axes)
        if spec.hadamard:
            padded = rotate(padded, axes[0])
        values = padded.astype(F32)
        own = F32(np.abs(values).max(initial=F32(0))) * F32(spec.clip)
        amax = own if amax is None else F32(amax)
        bound = _bound(spec)
        if spec.scaling == "four_over_six":
            scales_u8, codes = _four_over_six(values, axes, amax, spec)
        else:
            scales_u8 = _amax_scales(values, axes, amax, bound, spec.rounding)
            scaled = values * expand(_encode(scales_u8, amax, bound), axes)
            codes = _round(scaled, spec, bits)
    return Quantized(codes, scales_u8, amax, bound, axes, x.shape, spec.hadamard)


def _axes(x: np.ndarray, spec, axis) -> tuple[int, ...]:
    """Non-negative block axes, after refusing what the specification does not define."""
    if x.dtype.name not in ("float32", "bfloat16"):
        raise ValueError(f"the oracle takes float32 or bfloat16, got {x.dtype}")
    if spec.scaling == "four_over_six" and spec.rounding != "nearest":
        raise ValueError("four-over-six is defined for nearest rounding only")
    if spec.hadamard and tuple(spec.block) != (1, 16):
        raise ValueError("the RHT is defined for 1x16 blocks only")
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    if len(axes) != (1 if tuple(spec.block) == (1, 16) else 2):
        raise ValueError(f"block {spec.block} does not fit axis {axis}")
    return tuple(a % x.ndim for a in axes)


def _bound(spec) -> np.float32:
    """Largest |code x block scale| that A is mapped to."""
    if spec.scaling == "four_over_six":
        return F32(6 * spec.four_over_six_bound)
    return F32(2688 * 16 / 17) if spec.rounding == "stochastic_unbiased" else F32(2688)


def _encode_scale(amax: np.float32, bound: np.float32) -> np.float32:
    """S_enc."""
    if amax == 0:
        return F32(1)
    s_enc = np.minimum(bound / amax, FLT_MAX)  # keeps NaN
    return F32(1) if s_enc == 0 else s_enc


def _amax_scales(values, axes, amax, bound, rounding) -> np.ndarray:
    """Scale bytes s = e4m3(b * (S_enc * sixth)); the product in brackets is rounded first."""
    sixth = F32(17 / 96) if rounding == "stochastic_unbiased" else F32(1 / 6)
    return e4m3_bytes(block_max(np.abs(values), axes) * (_encode_scale(amax, bound) * sixth))


def _encode(scales_u8, amax, bound) -> np.ndarray:
    """E for each block; FLT_MAX where the scale is zero."""
    s_dec = F32(1) / _encode_scale(amax, bound)
    return np.minimum(F32(1) / (e4m3_decode(scales_u8) * s_dec), FLT_MAX)


def _round(scaled, spec, bits) -> np.ndarray:
    """E2M1 codes of x * E."""
    if spec.rounding == "nearest":
        return e2m1_nearest(scaled)
    if bits is None or bits.shape != scaled.shape:
        raise ValueError(f"{spec.rounding} rounding needs bits of shape {scaled.shape}")
    return e2m1_stochastic(scaled, bits, RANDOM_BITS[spec.rounding])


def _four_over_six(values, axes, amax, spec) -> tuple[np.ndarray, np.ndarray]:
    """Scale bytes and codes: each block maps its maximum to 6, or to 4 if that errs less.

    base = fl(fl(b / 6) * S_enc)        s6 = e4m3(base)        s4 = e4m3(min(448, fl(1.5 * base)))
    error of an element = fl(fl(fl(v * s) * A) / bound) - x, squared (mse) or absolute (mae),
    summed by block_sum; here bound is already 6 * 256 or 6 * 448
    """
    bound = _bound(spec)
    base = (block_max(np.abs(values), axes) / F32(6)) * _encode_scale(amax, bound)

    def candidate(scale):
        scales_u8 = e4m3_bytes(np.minimum(scale, E4M3_MAX))
        codes = e2m1_nearest(values * expand(_encode(scales_u8, amax, bound), axes))
        decoded = e2m1_decode(codes) * expand(e4m3_decode(scales_u8), axes)
        difference = (decoded * amax) / bound - values
        error = difference * difference if spec.four_over_six_error == "mse" else np.abs(difference)
        return scales_u8, codes, block_sum(error, axes)

    scales6, codes6, error6 = candidate(base)
    scales4, codes4, error4 = candidate(base * F32(1.5))
    four = error4 < error6
    return np.where(four, scales4, scales6), np.where(expand(four, axes), codes4, codes6)
