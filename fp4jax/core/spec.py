"""TensorSpec: how one operand is quantized."""

import dataclasses
from collections.abc import Iterable

import numpy as np


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
    ``code = E2M1(x * (1 / (scale * (1 / S_enc))))``.

    Example:
        >>> TensorSpec(block=(16, 16)).stochastic
        False
        >>> TensorSpec(hadamard=True, block=(16, 16))
        Traceback (most recent call last):
        ...
        ValueError: TensorSpec.hadamard rotates along one axis, not over 16x16: use block=(1, 16).
    """

    # 16 values along the contracted axis share a scale, or a tile of 16x16 does.
    block: tuple[int, int] = (1, 16)
    # nearest (ties to even); stochastic: TransformerEngine's, 8 random bits an element, biased by
    # about 1 % because block maxima are clipped; stochastic_unbiased: 16/17 head-room and 24 bits,
    # unbiased wherever the scale byte is at least 0x08.
    rounding: str = "nearest"
    # amax maps the block maximum to 6; four_over_six to 6 or 4, whichever has the smaller error.
    scaling: str = "amax"
    # rotate by the random Hadamard transform of 16 along the block axis first.
    hadamard: bool = False
    # error of four_over_six: mean squared or mean absolute.
    four_over_six_error: str = "mse"
    # largest block scale of four_over_six; 256 leaves room for the 1.5 times larger scale of "4".
    four_over_six_bound: int = 256

    def __post_init__(self) -> None:
        if isinstance(self.block, Iterable):
            object.__setattr__(self, "block", tuple(self.block))
        _check("block", self.block, ((1, 16), (16, 16)))
        _check("rounding", self.rounding, ("nearest", "stochastic", "stochastic_unbiased"))
        _check("scaling", self.scaling, ("amax", "four_over_six"))
        _check("four_over_six_error", self.four_over_six_error, ("mse", "mae"))
        _check("four_over_six_bound", self.four_over_six_bound, (256, 448))
        _check("hadamard", self.hadamard, (False, True))
        if self.hadamard and self.block == (16, 16):
            raise ValueError(
                "TensorSpec.hadamard rotates along one axis, not over 16x16: use block=(1, 16)."
            )
        if self.scaling == "four_over_six" and self.rounding != "nearest":
            raise ValueError(
                f"TensorSpec.rounding is {self.rounding!r} with scaling='four_over_six': choosing "
                "the candidate with the smaller error would bias the draw; use rounding='nearest'."
            )

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
