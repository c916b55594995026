"""Mode: how a product runs on a target: what multiplies, and what the operands are."""

import dataclasses
from typing import Literal, get_args

Units = Literal["FP4", "FP8", "16 bits", "float32"]
Operands = Literal["recipe", "weights", "fp8", "none"]

_OPERANDS = {
    "recipe": " with FP4 values",
    "weights": " with FP4 weights",
    "fp8": " with FP8 values",
    "none": "",
}
#: What goes without saying: the operands of these units.
_USUAL = {("FP4", "recipe"), ("FP8", "recipe"), ("FP8", "fp8")}


@dataclasses.dataclass(frozen=True)
class Mode:
    """How a product runs; ``str(mode)`` says it.

    Attributes:
        units: what multiplies: FP4 or FP8 units, 16-bit or float32 arithmetic.
        operands: what enters. ``"recipe"``: x and w quantized as the recipe says, on the grid of
            its format whatever multiplies them. ``"weights"``: w on the recipe's grid, x as it is.
            ``"fp8"``: both in E4M3 with a scale for the tensor, made from what was trained.
            ``"none"``: both as they are. Operands that are as they are, and weights of which x is
            not quantized, are rounded to 16 bits where these multiply.

    Raises:
        ValueError: other values, or FP4 units for operands that are not those of the recipe.

    Example:
        >>> print(Mode("FP4", "recipe"), "|", Mode("16 bits", "weights"), "|", Mode("float32"))
        FP4 | 16 bits with FP4 weights | float32
    """

    units: Units
    operands: Operands = "none"

    def __post_init__(self) -> None:
        for name, allowed in (("units", get_args(Units)), ("operands", get_args(Operands))):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"Mode.{name} is {getattr(self, name)!r}; allowed: "
                    f"{', '.join(map(repr, allowed))}."
                )
        whole = self.operands == "recipe" or (self.units, self.operands) == ("FP8", "fp8")
        if self.units in ("FP4", "FP8") and not whole:
            raise ValueError(
                f"Mode.operands is {self.operands!r} for {self.units} units, which multiply "
                "operands in their own format: give 'recipe', or 'fp8' for FP8."
            )

    def __str__(self) -> str:
        usual = (self.units, self.operands) in _USUAL
        return self.units if usual else self.units + _OPERANDS[self.operands]


FP4 = Mode("FP4", "recipe")
#: A recipe in an 8-bit format, as it was trained.
FP8 = Mode("FP8", "recipe")
#: Trained in another format, and quantized anew.
TO_FP8 = Mode("FP8", "fp8")
HALF_WEIGHTS = Mode("16 bits", "weights")
HALF_VALUES = Mode("16 bits", "recipe")
FLOAT_WEIGHTS = Mode("float32", "weights")
FLOAT_VALUES = Mode("float32", "recipe")
FLOAT = Mode("float32", "none")
