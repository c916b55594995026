"""TensorSpec: how one operand is quantized."""

import dataclasses
import numbers
from collections.abc import Iterable
from typing import Any, Literal, get_args

import numpy as np

from fp4jax.core.grids import E2M1
from fp4jax.core.number_format import Format, get_format

Rounding = Literal["nearest", "stochastic", "stochastic_unbiased"]
Scaling = Literal["amax", "four_over_six"]
FourOverSixError = Literal["mse", "mae"]
Amax = Literal["tensor", "example", "row", "static", "learned"]


def shown(value: object) -> str:
    """A wrong value as an error message shows it: in full, or by its type if that is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"of type {type(value).__name__}"


def is_number(value: object) -> bool:
    """Whether a value is a real number, Python's or NumPy's, and no bool.

    Example:
        >>> is_number(2), is_number(np.float32(0.5)), is_number(True), is_number("2")
        (True, True, False, False)
    """
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _check(field: str, value: object, allowed: tuple) -> None:
    if value not in allowed:
        raise ValueError(
            f"TensorSpec.{field} is {shown(value)}; allowed: {', '.join(map(repr, allowed))}."
        )


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """How one tensor is quantized: a hashable value, equal specs share one compilation.

    To NVFP4, unless ``format`` says otherwise. Its arithmetic is TransformerEngine's
    (``NVFP4QuantizerRef``): with A the tensor's and b the block's largest magnitude,
    ``S_enc = 2688 / A``, ``scale = E4M3(b * (S_enc * fl(1/6)))`` and
    ``code = E2M1(x * (1 / (scale * (1 / S_enc))))``; ``fl`` is one float32 rounding. A code stands
    for 0, 0.5, 1, 1.5, 2, 3, 4 or 6 and a sign; 2688 = 6 * 448, largest code times largest scale.

    Attributes:
        block: the values that share one scale: ``(1, 16)``, 16 along the contracted axis, or
            ``(16, 16)``, a tile over the contracted axis and another one. A tile's codes serve a
            weight and its transpose, in fprop and dgrad. Of another format its own length n takes
            the place of 16; one without block scales has None. Default: ``(1, n)``.
        rounding: how ``x * (1 / (scale * (1 / S_enc)))`` becomes a code.

            ``"nearest"``: to the nearest one, ties to the even code.

            ``"stochastic"``: to one of its two neighbours, with 8 random bits r an element: up if
            ``f * 256 + r >= 256``, f being the distance from the lower one in steps. It is
            TransformerEngine's, and biased by about 1 %, since E4M3 rounds half of the block scales
            down and their block maxima, then above 6, are clamped.

            ``"stochastic_unbiased"``: 24 random bits, and head-room of 16/17: ``S_enc = (2688 *
            16/17) / A`` and ``scale = E4M3(b * (S_enc * fl(17/96)))``, so that no block maximum is
            mapped beyond 6 and clamped. ``E[Q(x)] = x`` wherever the scale byte is at least 0x08;
            smaller scales are subnormal E4M3. Other formats: 24 bits, and a scale that is not
            rounded down either: of E8M0 scales the rule "rceil".
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
            What exceeds it is clamped to it, about: block scales to 448, codes to 6. Inf is not,
            it makes its block NaN.

            Formats without a tensor scale (mxfp4, mxfp8, int4) have ``"tensor"``, which says
            nothing there.

            ``"learned"``: a given value that is a parameter, with the gradient of
            :func:`fp4jax.core.hooks.learned` (LSQ); the tensor's own as long as none is given or it
            is 0. For x of fprop, without hadamard, rounded to nearest.
        clip: A is this share of the largest magnitude, what exceeds A is clamped to it and has no
            gradient (:func:`fp4jax.core.hooks.clipped`). Above 0, at most 1; below 1 only with
            ``amax="tensor"``, for x of fprop, without hadamard.
        format: a :class:`Format`, or a registered one's name: "nvfp4", "mxfp4", "mxfp8", "fp8",
            "int8", "int4".

    Raises:
        ValueError: a value that is not allowed; ``hadamard``, or an amax for each example or row,
            with tiles; ``"four_over_six"`` with stochastic rounding, or with another format than
            E2M1 elements with two levels of scales; ``clip`` or a learned amax with what they
            exclude.

    Example:
        >>> TensorSpec(block=(16, 16)).stochastic
        False
        >>> TensorSpec(format="mxfp4").block, TensorSpec(format="fp8").block
        ((1, 32), None)
        >>> TensorSpec(hadamard=True, block=(16, 16))
        Traceback (most recent call last):
        ...
        ValueError: TensorSpec.hadamard rotates along one axis, not over 16x16: use block=(1, 16).
    """

    # Any, not tuple | None: __post_init__ sets it.
    block: Any = None
    rounding: Rounding = "nearest"
    scaling: Scaling = "amax"
    hadamard: bool = False
    four_over_six_error: FourOverSixError = "mse"
    four_over_six_bound: int = 256
    amax: Amax = "tensor"
    clip: float = 1.0
    # Any, not Format: a name, or what JSON has, becomes one.
    format: Any = "nvfp4"

    def __post_init__(self) -> None:
        object.__setattr__(self, "format", get_format(self.format))
        self._set_block()
        _check("rounding", self.rounding, get_args(Rounding))
        _check("scaling", self.scaling, get_args(Scaling))
        _check("four_over_six_error", self.four_over_six_error, get_args(FourOverSixError))
        _check("four_over_six_bound", self.four_over_six_bound, (256, 448))
        _check("hadamard", self.hadamard, (False, True))
        _check("amax", self.amax, get_args(Amax))
        self._check_hooks()
        if self.amax != "tensor" and not self.has_tensor_scale:
            raise ValueError(
                f"TensorSpec.amax is {self.amax!r}, but {self.format.name} has no tensor scale, "
                "only those of blocks: leave it out."
            )
        n = self.format.block
        if self.tiles and self.several_scales:
            raise ValueError(
                f"TensorSpec.amax is {self.amax!r} with block={self.block}: a tile may lie in "
                f"several of them. Use block=(1, {n}), or amax='tensor' or 'static'."
            )
        if self.hadamard and self.tiles:
            raise ValueError(
                f"TensorSpec.hadamard rotates along one axis, not over {n}x{n}: use block=(1, {n})."
            )
        scales = self.format.elements, self.format.two_level
        if self.scaling == "four_over_six" and scales != (E2M1, True):
            raise ValueError(
                f"TensorSpec.scaling is 'four_over_six' with format {self.format.name!r}; it "
                "chooses between 4 and 6 of E2M1 with two levels of scales: use nvfp4, or "
                "scaling='amax'."
            )
        if self.scaling == "four_over_six" and self.rounding != "nearest":
            raise ValueError(
                f"TensorSpec.rounding is {self.rounding!r} with scaling='four_over_six': choosing "
                "the candidate with the smaller error would bias the draw; use rounding='nearest'."
            )

    def _check_hooks(self) -> None:
        if not (is_number(self.clip) and 0 < self.clip <= 1):
            raise ValueError(
                f"TensorSpec.clip is {shown(self.clip)}; give a share of amax, above 0 to 1."
            )
        object.__setattr__(self, "clip", float(self.clip))
        if self.clip != 1 and not self.has_tensor_scale:
            raise ValueError(
                f"TensorSpec.clip is {self.clip}, but {self.format.name} has no tensor scale, only "
                "those of blocks: leave it out."
            )
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

    def _set_block(self) -> None:
        n, block = self.format.block, self.block
        if n is None:
            if block is not None:
                raise ValueError(
                    f"TensorSpec.block is {shown(block)}, but {self.format.name} has no block "
                    "scales: leave it out."
                )
            return
        block = (1, n) if block is None else block
        block = tuple(block) if isinstance(block, Iterable) else block
        _check("block", block, ((1, n), (n, n)))
        object.__setattr__(self, "block", block)

    def in_format(self, format: str | Format) -> "TensorSpec":
        """The same in another format: tiles become its tiles, or nothing where it has no blocks.

        (One scale for a whole tensor serves a weight and its transpose as a tile's does.)

        Raises:
            ValueError: an unknown format, or one that has no such scaling or amax.

        Example:
            >>> TensorSpec(block=(16, 16), rounding="stochastic").in_format("mxfp4").block
            (32, 32)
        """
        format = get_format(format)
        tile = (format.block, format.block) if self.tiles and format.block else None
        return dataclasses.replace(self, format=format, block=tile)

    @property
    def tiles(self) -> bool:
        """True if square tiles, not runs along one axis, share a block scale."""
        return self.block is not None and self.block[0] > 1

    @property
    def has_tensor_scale(self) -> bool:
        """True if there is a scale for all that ``amax`` spans."""
        return self.format.tensor_scale

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
        if self.rounding == "stochastic_unbiased" and self.format.two_level:
            return np.float32(float(self.format.bound) * 16 / 17)
        if self.scaling == "four_over_six":
            return np.float32(6 * self.four_over_six_bound)
        return self.format.bound
