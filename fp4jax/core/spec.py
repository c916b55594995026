"""TensorSpec: how one operand is quantized."""

import dataclasses
from collections.abc import Iterable
from typing import Literal, get_args

import numpy as np

Rounding = Literal["nearest", "stochastic", "stochastic_unbiased"]
Scaling = Literal["amax", "four_over_six"]
FourOverSixError = Literal["mse", "mae"]
Amax = Literal["tensor", "example", "row", "static", "learned"]


def shown(value: object) -> str:
    """A wrong value as an error message shows it: in full, or by its type if that is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"of type {type(value).__name__}"


def _check(field: str, value: object, allowed: tuple) -> None:
    if value not in allowed:
        raise ValueError(
            f"TensorSpec.{field} is {shown(value)}; allowed: {', '.join(map(repr, allowed))}."
        )


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """How one tensor is quantized to NVFP4: a hashable value, equal specs share one compilation.

    The arithmetic is TransformerEngine's (``NVFP4QuantizerRef``): with A the tensor's and b the
    block's largest magnitude, ``S_enc = 2688 / A``, ``scale = E4M3(b * (S_enc * fl(1/6)))`` and
    ``code = E2M1(x * (1 / (scale * (1 / S_enc))))``; ``fl`` is one float32 rounding. A code stands
    for 0, 0.5, 1, 1.5, 2, 3, 4 or 6 and a sign; 2688 = 6 * 448, largest code times largest scale.

    Attributes:
        block: the values that share one scale: ``(1, 16)``, 16 along the contracted axis, or
            ``(16, 16)``, a tile over the contracted axis and another one. A tile's codes serve a
            weight and its transpose, in fprop and dgrad.
        rounding: how ``x * (1 / (scale * (1 / S_enc)))`` becomes a code.

            ``"nearest"``: to the nearest one, ties to the even code.

            ``"stochastic"``: to one of its two neighbours, with 8 random bits r an element: up if
            ``f * 256 + r >= 256``, f being the distance from the lower one in steps. It is
            TransformerEngine's, and biased by about 1 %, since E4M3 rounds half of the block scales
            down and their block maxima, then above 6, are clamped.

            ``"stochastic_unbiased"``: 24 random bits, and head-room of 16/17: ``S_enc = (2688 *
            16/17) / A`` and ``scale = E4M3(b * (S_enc * fl(17/96)))``, so that no block maximum is
            mapped beyond 6 and clamped. ``E[Q(x)] = x`` wherever the scale byte is at least 0x08;
            smaller scales are subnormal E4M3.
        scaling: which code a block's maximum is mapped to. ``"amax"``: 6. ``"four_over_six"``: 6 or
            4 (scale ``E4M3(1.5 * (b / 6) * S_enc)``), whichever has the smaller sum of errors over
            the block, 6 if they are equal; with nearest rounding only.
        hadamard: rotate by the random Hadamard transform first, ``y = x diag(signs) H16 / 4`` for
            every 16 values along the block axis; for ``(1, 16)`` blocks only. Amax, scales and
            codes are y's. In a product both operands are rotated along the contracted axis, and the
            rotation cancels (:func:`fp4jax.random_hadamard`).
        four_over_six_error: the error of an element, with d its decoded value minus x: ``"mse"``:
            d * d; ``"mae"``: |d|. Only ``scaling="four_over_six"`` looks at it.
        four_over_six_bound: the largest block scale of ``"four_over_six"``, in place of 448: S_enc
            is 6 * bound / A. 256 leaves room for the 1.5 times larger scale of "4" (256 * 1.5 =
            384); with 448 that scale is clamped to 448 in the blocks that have the largest values.
        amax: what A, and with it the tensor scale, spans.

            ``"tensor"``: the whole tensor, TransformerEngine's default.

            ``"example"``: each example of the leading axis, which must not be a blocked one, so
            that no example depends on what else is in the batch.

            ``"row"``: each row along the blocked axis, for every place along the others:
            TransformerEngine's row-scaled NVFP4. In a product these are the rows of the GEMM.

            ``"static"``: a value that is given (``amax=``), of a calibration or of earlier steps.
            What exceeds it is clamped to it, about: block scales to 448, codes to 6.

            ``"learned"``: a given value that is a parameter, with the gradient of
            :func:`fp4jax.core.hooks.learned` (LSQ); the tensor's own as long as none is given or it
            is 0. For x of fprop, without hadamard, rounded to nearest.
        clip: A is this share of the largest magnitude, what exceeds A is clamped to it and has no
            gradient (:func:`fp4jax.core.hooks.clipped`). Above 0, at most 1; below 1 only with
            ``amax="tensor"``, for x of fprop, without hadamard.

    Raises:
        ValueError: a value that is not allowed; ``hadamard``, or an amax for each example or row,
            with tiles; ``"four_over_six"`` with stochastic rounding; ``clip`` or a learned amax
            with what they exclude.

    Example:
        >>> TensorSpec(block=(16, 16)).stochastic
        False
        >>> TensorSpec(hadamard=True, block=(16, 16))
        Traceback (most recent call last):
        ...
        ValueError: TensorSpec.hadamard rotates along one axis, not over 16x16: use block=(1, 16).
    """

    block: tuple[int, int] = (1, 16)
    rounding: Rounding = "nearest"
    scaling: Scaling = "amax"
    hadamard: bool = False
    four_over_six_error: FourOverSixError = "mse"
    four_over_six_bound: int = 256
    amax: Amax = "tensor"
    clip: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.block, Iterable):
            object.__setattr__(self, "block", tuple(self.block))
        _check("block", self.block, ((1, 16), (16, 16)))
        _check("rounding", self.rounding, get_args(Rounding))
        _check("scaling", self.scaling, get_args(Scaling))
        _check("four_over_six_error", self.four_over_six_error, get_args(FourOverSixError))
        _check("four_over_six_bound", self.four_over_six_bound, (256, 448))
        _check("hadamard", self.hadamard, (False, True))
        _check("amax", self.amax, get_args(Amax))
        self._check_hooks()
        if self.block == (16, 16) and self.several_scales:
            raise ValueError(
                f"TensorSpec.amax is {self.amax!r} with block=(16, 16): a tile may lie in several "
                "of them. Use block=(1, 16), or amax='tensor' or 'static'."
            )
        if self.hadamard and self.block == (16, 16):
            raise ValueError(
                "TensorSpec.hadamard rotates along one axis, not over 16x16: use block=(1, 16)."
            )
        if self.scaling == "four_over_six" and self.rounding != "nearest":
            raise ValueError(
                f"TensorSpec.rounding is {self.rounding!r} with scaling='four_over_six': choosing "
                "the candidate with the smaller error would bias the draw; use rounding='nearest'."
            )

    def _check_hooks(self) -> None:
        if not (isinstance(self.clip, int | float) and 0 < self.clip <= 1):
            raise ValueError(
                f"TensorSpec.clip is {shown(self.clip)}; give a share of amax, above 0 to 1."
            )
        object.__setattr__(self, "clip", float(self.clip))
        if self.clip != 1 and self.amax != "tensor":
            raise ValueError(
                f"TensorSpec.clip is {self.clip} with amax={self.amax!r}; it is a share of the "
                "tensor's own amax: use amax='tensor', or a smaller static amax."
            )
        if self.hooked and self.hadamard:
            raise ValueError(
                "TensorSpec.hadamard with clip or a learned amax: their gradients are not those "
                "of the rotated tensor. Use hadamard=False, or amax='static'."
            )
        if self.amax == "learned" and self.rounding != "nearest":
            raise ValueError(
                f"TensorSpec.rounding is {self.rounding!r} with amax='learned', whose gradient is "
                "that of rounding to nearest; use rounding='nearest'."
            )

    @property
    def hooked(self) -> bool:
        """True if the gradient is that of a hook, :mod:`fp4jax.core.hooks`."""
        return self.amax == "learned" or self.clip != 1

    @property
    def given(self) -> bool:
        """True if a tensor's amax comes from outside: static or learned."""
        return self.amax in ("static", "learned")

    @property
    def several_scales(self) -> bool:
        """True if a tensor has several tensor scales, one for each example or row."""
        return self.amax in ("example", "row")

    @property
    def stochastic(self) -> bool:
        """True if quantizing needs a random key."""
        return self.rounding != "nearest"

    @property
    def random_bits(self) -> int:
        """Random bits an element: 0, 8 or 24."""
        return {"nearest": 0, "stochastic": 8, "stochastic_unbiased": 24}[self.rounding]

    @property
    def bound(self) -> np.float32:
        """amax divided by the tensor scale: largest code times largest block scale."""
        if self.rounding == "stochastic_unbiased":
            return np.float32(2688 * 16 / 17)
        if self.scaling == "four_over_six":
            return np.float32(6 * self.four_over_six_bound)
        return np.float32(2688)
