"""Grid: the numbers that a code of a few bits can be, floats or integers, and their codes.

Integers and floats are one thing here: all numbers below the smallest normal one are equally far
apart, and integers are a format of which every number lies below it. Sources: OCP Microscaling
Formats (MX) v1.0, section 5.3, and OCP 8-bit Floating Point v1.0 for the largest numbers.
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jax import lax

from fp4jax.core.typing import Array, Float, UInt8

_MOST_BITS = 8
# float32's exponent bias, mantissa bits and sign bit.
_BIAS, _MANTISSA, _SIGN = 127, 23, 31


@dataclasses.dataclass(frozen=True)
class Grid:
    """Sign, exponent and mantissa of an element; or integers, symmetric about zero.

    A float's code is, from the top, its sign, its exponent with a bias of ``2**(exponent - 1) - 1``
    and its mantissa; exponent 0 has the subnormal numbers, and there is no Inf. An integer's code
    is its two's complement.

    Attributes:
        exponent: bits of the exponent; 0: integers from ``-largest`` to ``largest``.
        mantissa: bits of the mantissa; of integers all but the sign.
        largest: the largest number. None: that of the last code, as in E2M1, E2M3 and E3M2. Formats
            that keep codes for NaN or Inf say it: 448 for E4M3, 57344 for E5M2.

    Raises:
        ValueError: less than 2 or more than 8 bits with the sign, or a ``largest`` that is no
            number of the grid.

    Example:
        >>> Grid(2, 1).values.tolist(), Grid(0, 3).values.tolist()
        ([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
        >>> Grid(4, 3, largest=448).name, Grid(3, 2).largest, Grid(0, 7).name
        ('E4M3', 28.0, 'INT8')
    """

    exponent: int
    mantissa: int
    largest: float | int | None = None

    def __post_init__(self) -> None:
        if min(self.exponent, self.mantissa) < 0 or not 2 <= self.bits <= _MOST_BITS:
            raise ValueError(
                f"Grid has {self.exponent} bits of exponent and {self.mantissa} of mantissa; give "
                f"1 to {_MOST_BITS - 1} in all, the sign takes another."
            )
        values = _values(self)
        if self.largest is None:
            object.__setattr__(self, "largest", float(values[-1]))
        elif self.largest not in values[1:]:
            raise ValueError(
                f"Grid.largest is {self.largest!r}; it must be one of the numbers of {self.name}, "
                f"the largest of which is {values[-1]:g}."
            )
        else:
            object.__setattr__(self, "largest", float(self.largest))

    @property
    def bits(self) -> int:
        """Of a code, with the sign."""
        return 1 + self.exponent + self.mantissa

    @property
    def integers(self) -> bool:
        """True for integers, False for floats."""
        return self.exponent == 0

    @property
    def name(self) -> str:
        """ "E2M1", "INT4" and the like."""
        return f"INT{self.bits}" if self.integers else f"E{self.exponent}M{self.mantissa}"

    @property
    def maximum(self) -> np.float32:
        """``largest`` as a float32 number."""
        return np.float32(_given(self.largest))

    @property
    def largest_exponent(self) -> int:
        """floor(log2(largest)), what OCP's rule for E8M0 scales calls emax."""
        return math.frexp(_given(self.largest))[1] - 1

    @property
    def smallest_normal(self) -> float:
        """Numbers below it are a :attr:`step` apart; of integers none is larger."""
        if self.integers:
            return 2.0**self.mantissa
        return 2.0 ** (1 - _bias(self))

    @property
    def step(self) -> float:
        """Distance of the smallest numbers, and the smallest number above zero."""
        return self.smallest_normal * 2.0**-self.mantissa

    @property
    def nan(self) -> int | None:
        """The code of NaN: of integers the one below ``-largest``, of floats the last, if spare.

        Example:
            >>> Grid(4, 3, largest=448).nan, Grid(0, 7).nan, Grid(2, 1).nan
            (127, 128, None)
        """
        if self.integers:
            return 2 ** (self.bits - 1)
        last = 2 ** (self.bits - 1) - 1
        return last if len(self.values) <= last else None

    @property
    def values(self) -> np.ndarray:
        """The numbers that are not negative, in the order of their codes: float32."""
        values = _values(self)
        return values[values <= self.maximum]

    def encode(self, values: Float[Array, "*shape"]) -> UInt8[Array, "*shape"]:
        """Codes of float32 numbers that lie on the grid, in the low bits; of NaN :attr:`nan`, or 0.

        Example:
            >>> Grid(2, 1).encode(jnp.array([0.0, 0.5, -1.5, 6.0])).tolist()
            [0, 1, 11, 7]
            >>> Grid(0, 3).encode(jnp.array([7.0, -1.0])).tolist()
            [7, 15]
        """
        if self.integers:
            nan = np.float32(-(2 ** (self.bits - 1)))
            number = jnp.where(jnp.isnan(values), nan, values).astype(jnp.int32)
            return (number & np.int32(2**self.bits - 1)).astype(jnp.uint8)
        bits = lax.bitcast_convert_type(values, jnp.uint32)
        below = _MANTISSA - self.mantissa
        magnitude = (bits >> below) & jnp.uint32(2 ** (_SIGN - below) - 1)
        offset = _code_offset(self)
        # The bits of a normal number are its code but for the bias. A subnormal one's code counts
        # the numbers below it.
        normal = magnitude >= offset + 2**self.mantissa
        code = jnp.where(normal, magnitude - jnp.uint32(offset), self._subnormal_code(magnitude))
        sign = (bits >> (_SIGN + 1 - self.bits)) & jnp.uint32(2 ** (self.bits - 1))
        code = code | sign
        return jnp.where(jnp.isnan(values), jnp.uint32(self.nan or 0), code).astype(jnp.uint8)

    def _subnormal_code(self, magnitude: Array) -> Array:
        numbers = np.arange(2**self.mantissa - 1, dtype=np.float32) * np.float32(self.step)
        below = [int(n) >> (_MANTISSA - self.mantissa) for n in numbers.view(np.uint32)]
        larger = [(magnitude > n).astype(jnp.uint32) for n in below]
        return sum(larger[1:], larger[0]) if larger else jnp.zeros_like(magnitude)

    def decode(self, codes: UInt8[Array, "*shape"]) -> Float[Array, "*shape"]:
        """float32 numbers of codes.

        Example:
            >>> Grid(2, 1).decode(jnp.array([1, 7, 15], jnp.uint8)).tolist()
            [0.5, 6.0, -6.0]
            >>> Grid(0, 3).decode(jnp.array([7, 15, 8], jnp.uint8)).tolist()
            [7.0, -1.0, nan]
        """
        values = self._decode(codes)
        if self.nan is None:
            return values
        magnitude = codes if self.integers else codes & jnp.uint8(2 ** (self.bits - 1) - 1)
        return jnp.where(magnitude == jnp.uint8(self.nan), np.float32(np.nan), values)

    def _decode(self, codes: UInt8[Array, "*shape"]) -> Float[Array, "*shape"]:
        if self.integers:
            sign = np.int32(2 ** (self.bits - 1))
            return ((codes.astype(jnp.int32) ^ sign) - sign).astype(jnp.float32)
        codes = codes.astype(jnp.uint32)
        magnitude = codes & jnp.uint32(2 ** (self.bits - 1) - 1)
        shifted = (magnitude + jnp.uint32(_code_offset(self))) << (_MANTISSA - self.mantissa)
        normal = lax.bitcast_convert_type(shifted, jnp.float32)
        small = magnitude.astype(jnp.float32) * np.float32(self.step)
        value = jnp.where(magnitude < 2**self.mantissa, small, normal)
        return jnp.where(codes < 2 ** (self.bits - 1), value, -value)


def _given(largest: float | int | None) -> float:
    assert largest is not None  # Grid has set it
    return largest


def _bias(grid: Grid) -> int:
    return 2 ** (grid.exponent - 1) - 1


def _code_offset(grid: Grid) -> int:
    """By how much a normal number's upper bits exceed its code, the sign left out."""
    return (_BIAS - _bias(grid)) << grid.mantissa


def _values(grid: Grid) -> np.ndarray:
    """The numbers of all codes without a sign."""
    codes = np.arange(2 ** (grid.bits - 1))
    exponent, mantissa = codes >> grid.mantissa, codes & (2**grid.mantissa - 1)
    hidden = np.where(exponent > 0, 2**grid.mantissa, 0)
    step = grid.step * 2.0 ** np.maximum(exponent - 1, 0)
    return ((hidden + mantissa) * step).astype(np.float32)


E2M1 = Grid(2, 1)
E4M3 = Grid(4, 3, largest=448)
E5M2 = Grid(5, 2, largest=57344)
INT4 = Grid(0, 3)
INT8 = Grid(0, 7)
