"""Format: what an element and its scales are, as one value; the named ones."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np

from fp4jax.core.formats import E4M3_MAX
from fp4jax.core.grids import E2M1, E4M3, INT4, INT8, Grid
from fp4jax.registration import Registry

Scale = Literal["e4m3", "e8m0", "float32"]
Rule = Literal["nearest", "floor", "ceil", "even", "rceil"]

_SCALE_BITS = {"e4m3": 8, "e8m0": 8, "float32": 32}


@dataclasses.dataclass(frozen=True)
class Format:
    """How numbers are quantized: a hashable value, of which NVFP4 is one.

        number = element * block scale * tensor scale

    Attributes:
        name: what errors, recipes and tables call it.
        elements: the numbers of one element.
        block: how many numbers along the contracted axis share a block scale; None: there are no
            block scales, one scale serves the whole tensor (or example, or row).
        scale: what that scale is: ``"e4m3"`` (a float of 8 bits, at most 448), ``"e8m0"`` (a power
            of two, 2**-127 to 2**127) or ``"float32"``.
        rule: how a scale s comes from the largest magnitude b that it serves, and L, the largest
            element. Of ``"e4m3"`` and ``"float32"`` scales ``"nearest"``: b / L, rounded. Of
            ``"e8m0"``, with E(x) = floor(log2(x)):

            ``"floor"``: ``2**(E(b) - E(L))``, the rule of OCP's specification; what exceeds L times
            the scale becomes L.

            ``"rceil"``: the smallest power of two with ``b <= L * s``, as cuBLAS has it.

            ``"ceil"``: ``2**(ceil(log2(b)) - E(L))``.

            ``"even"``: as floor, after b was rounded to the elements' mantissa bits.

            "rceil", "ceil" and "even" are the modes of torchao with these names.
        two_level: a float32 tensor scale A / (L * 448) besides the E4M3 block scales, with A the
            tensor's largest magnitude, so that these span their range; NVFP4's way.

    Raises:
        ValueError: fields that do not fit together.

    Example:
        >>> get_format("nvfp4") == Format("nvfp4", Grid(2, 1), 16, "e4m3", two_level=True)
        True
        >>> get_format("mxfp4").bits, get_format("int8").bits
        (4.25, 8.0)
        >>> Format("bf4", Grid(2, 1), None, "e8m0")
        Traceback (most recent call last):
        ...
        ValueError: Format.scale is 'e8m0' without blocks; a tensor's scale is 'float32': set block.
    """

    name: str
    elements: Grid
    block: int | None
    scale: Scale = "float32"
    rule: Rule | None = None
    two_level: bool = False

    def __post_init__(self) -> None:
        _FORMATS.check(self.name)
        if not isinstance(self.elements, Grid):
            raise ValueError(f"Format.elements is {self.elements!r}; give a Grid, as Grid(2, 1).")
        if self.scale not in get_args(Scale):
            allowed = ", ".join(map(repr, get_args(Scale)))
            raise ValueError(f"Format.scale is {self.scale!r}; allowed: {allowed}.")
        allowed = ("floor", "rceil", "ceil", "even") if self.scale == "e8m0" else ("nearest",)
        if self.rule is None:
            object.__setattr__(self, "rule", allowed[0])
        elif self.rule not in allowed:
            raise ValueError(
                f"Format.rule is {self.rule!r} with scale={self.scale!r}; allowed: "
                f"{', '.join(map(repr, allowed))}."
            )
        if self.block is None and self.scale != "float32":
            raise ValueError(
                f"Format.scale is {self.scale!r} without blocks; a tensor's scale is 'float32': "
                "set block."
            )
        if self.block is not None and (self.block < 2 or self.block % 2):
            raise ValueError(f"Format.block is {self.block!r}; give an even number, or None.")
        if self.two_level and self.scale != "e4m3":
            raise ValueError(
                f"Format.two_level needs scale='e4m3', not {self.scale!r}: other scales have the "
                "range of a tensor scale themselves."
            )

    @property
    def tensor_scale(self) -> bool:
        """Whether there is a scale for all that amax spans: the only one, or the second level."""
        return self.block is None or self.two_level

    @property
    def bound(self) -> np.float32:
        """amax / tensor scale: the largest element, times the largest block scale if there is."""
        return np.float32(self.elements.maximum * (E4M3_MAX if self.two_level else np.float32(1)))

    @property
    def stored_bits(self) -> int:
        """Of an element: 4 for up to 4 bits, two of which share a byte, else 8."""
        return 4 if self.elements.bits <= 4 else 8

    @property
    def bits(self) -> float:
        """Stored for each number of a long tensor: an element and its share of the block scale."""
        return self.stored_bits + (self.scale_bits / self.block if self.block else 0.0)

    @property
    def scale_bits(self) -> int:
        """Of one block's (or the tensor's) scale."""
        return _SCALE_BITS[self.scale]

    def to_json(self) -> dict[str, Any]:
        """All fields, for a format that is not registered."""
        return dataclasses.asdict(self)


_FORMATS: Registry[Format] = Registry("format")

NVFP4 = Format("nvfp4", E2M1, 16, "e4m3", two_level=True)
MXFP4 = Format("mxfp4", E2M1, 32, "e8m0")
MXFP8 = Format("mxfp8", E4M3, 32, "e8m0")
FP8 = Format("fp8", E4M3, None)
INT8_TENSOR = Format("int8", INT8, None)
INT4_BLOCKS = Format("int4", INT4, 32)


def register_format(format: Format) -> None:
    """Makes a format known by its name: in ``TensorSpec(format=)``, in names of recipes, in runs.

    A format that is not registered is used as a value: ``TensorSpec(format=my_format)``.

    Raises:
        ValueError: the name is taken by another format.

    Example:
        >>> register_format(Format("mxfp6", Grid(2, 3), 32, "e8m0"))
        >>> get_format("mxfp6").bits
        8.25
        >>> _FORMATS.remove("mxfp6")
    """
    if not isinstance(format, Format):
        raise ValueError(f"what was to be registered is {format!r}; give a Format.")
    _FORMATS.add(format.name, format)


for _format in (NVFP4, MXFP4, MXFP8, FP8, INT8_TENSOR, INT4_BLOCKS):
    register_format(_format)


def format_names() -> tuple[str, ...]:
    """Names of all registered formats, NVFP4's first.

    Example:
        >>> format_names()
        ('nvfp4', 'mxfp4', 'mxfp8', 'fp8', 'int8', 'int4')
    """
    return tuple(_FORMATS)


def get_format(format: str | Format | Mapping[str, Any]) -> Format:
    """A format by name, or from JSON (:meth:`Format.to_json`); a Format is returned as it is.

    Raises:
        ValueError: an unknown name, which lists the known ones; fields that a Format does not have.

    Example:
        >>> get_format(get_format("mxfp4").to_json()) == get_format("mxfp4")
        True
        >>> get_format("fp4")
        Traceback (most recent call last):
        ...
        ValueError: no format 'fp4'; known names: nvfp4, mxfp4, mxfp8, fp8, int8, int4.
    """
    if isinstance(format, Format):
        return format
    if not isinstance(format, Mapping):
        return _FORMATS.find(format)
    try:
        fields = dict(format)
        return Format(**{**fields, "elements": Grid(**fields["elements"])})
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{dict(format)!r} is no format, or one of a newer version: {error}."
        ) from None


def format_record(format: Format) -> str | dict[str, Any]:
    """The name of a registered format, the fields of any other: as JSON holds it.

    Example:
        >>> format_record(get_format("int8"))
        'int8'
    """
    registered = format.name in _FORMATS and _FORMATS.find(format.name) == format
    return format.name if registered else format.to_json()
