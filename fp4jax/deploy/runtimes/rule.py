"""Case, Rule, Runtime: what is known of a product, and which products a runtime runs how."""

import dataclasses
from typing import Literal, get_args

from fp4jax.core.spec import TensorSpec
from fp4jax.deploy.runtimes.mode import Mode
from fp4jax.registration import Registry

Kind = Literal[
    "linear", "convolution", "transposed convolution", "einsum", "attention", "other product"
]
Half = Literal["bfloat16", "float16"]

#: Products of a layer's kernel that packing knows.
PACKED: tuple[Kind, ...] = ("linear", "convolution", "transposed convolution")


@dataclasses.dataclass(frozen=True)
class Case:
    """What decides how a product runs.

    Attributes:
        kind: whose product it is.
        x, w: how the operands are quantized; None for as they are. Of attention q and k, P and v.
        matrix: whether it is a matrix product: a linear layer; a convolution of one group whose
            kernel is as large as its stride, or one pixel, without padding.
        spatial_dims: of a convolution; else 0.
        groups: of a convolution.
        channels: numbers along the blocks: inputs of a linear layer, channels of a convolution's
            group. None where they are not known.
        calibrated: whether x has a static amax.
        fp8: whether what cannot run in FP4 may be quantized to FP8 instead.
    """

    kind: Kind
    x: TensorSpec | None = None
    w: TensorSpec | None = None
    matrix: bool = False
    spatial_dims: int = 0
    groups: int = 1
    channels: int | None = None
    calibrated: bool = False
    fp8: bool = False

    @property
    def operands(self) -> str:
        """The format of both, "weights" or "activations" if one alone is quantized, or "none".

        Example:
            >>> Case("linear", TensorSpec(), TensorSpec()).operands, Case("linear").operands
            ('nvfp4', 'none')
        """
        if self.x is None or self.w is None:
            one = "weights" if self.x is None else "activations"
            return "none" if self.x is self.w is None else one
        names = dict.fromkeys(spec.format.name for spec in (self.x, self.w))
        return " * ".join(names)

    @property
    def specs(self) -> list[TensorSpec]:
        """Of the operands that are quantized."""
        return [spec for spec in (self.x, self.w) if spec is not None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """A mode for products that meet every condition; None is no condition.

    Attributes:
        mode: how they run.
        why: in a few words.
        sources: addresses of what says so.
        kinds, operands: one of these, of :attr:`Case.kind` and :attr:`Case.operands`.
        matrix, calibrated, fp8: as in :class:`Case`.
        rotated: whether operands are rotated by the random Hadamard transform.
        tiles: whether w has 16x16 tiles.
        whole_blocks: whether the channels are a multiple of 16.
        spatial_dims: one of these.
        scaling: of x, "amax" or "four_over_six".

    Example:
        >>> from fp4jax.deploy.runtimes.mode import FP4
        >>> rule = Rule(mode=FP4, why="a matrix product", sources=(), matrix=True, rotated=False)
        >>> [rule.fits(Case("linear", matrix=matrix)) for matrix in (True, False)]
        [True, False]
    """

    mode: Mode
    why: str
    sources: tuple[str, ...]
    kinds: tuple[Kind, ...] | None = None
    operands: tuple[str, ...] | None = None
    matrix: bool | None = None
    calibrated: bool | None = None
    fp8: bool | None = None
    rotated: bool | None = None
    tiles: bool | None = None
    whole_blocks: bool | None = None
    spatial_dims: tuple[int, ...] | None = None
    scaling: str | None = None

    def fits(self, case: Case) -> bool:
        """Whether a product meets the conditions."""
        facts = {
            "matrix": case.matrix,
            "calibrated": case.calibrated,
            "fp8": case.fp8,
            "rotated": any(spec.hadamard for spec in case.specs),
            "tiles": case.w is not None and case.w.tiles,
            "whole_blocks": (case.channels or 0) % 16 == 0,
            "scaling": "amax" if case.x is None else case.x.scaling,
        }
        members = {
            "kinds": case.kind,
            "operands": case.operands,
            "spatial_dims": case.spatial_dims,
        }
        return all(getattr(self, name) in (None, fact) for name, fact in facts.items()) and all(
            getattr(self, name) is None or fact in getattr(self, name)
            for name, fact in members.items()
        )

    @property
    def unconditional(self) -> bool:
        """Whether it has no conditions."""
        known = ("mode", "why", "sources")
        return all(getattr(self, f.name) is None for f in dataclasses.fields(self)[len(known) :])


@dataclasses.dataclass(frozen=True)
class Runtime:
    """What executes an exported model, and how: the first rule that fits a product decides.

    Attributes:
        name: as ``--target`` takes it.
        summary: what it is, and on which machine the rules hold.
        rules: the last one has no conditions.
        static: whether it quantizes x by static scales only, so that a run has to be calibrated.
        half: the 16-bit type in which products run that are not quantized whole.

    Raises:
        ValueError: no rules, or a last one with conditions.

    Example:
        >>> from fp4jax.deploy.runtimes.mode import FLOAT
        >>> rule = Rule(mode=FLOAT, why="no 4-bit kernels", sources=("https://example.org",))
        >>> Runtime("mine", "a runtime of float32", (rule,)).rule(Case("linear")).why
        'no 4-bit kernels'
    """

    name: str
    summary: str
    rules: tuple[Rule, ...]
    static: bool = False
    half: Half = "bfloat16"

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", tuple(self.rules))
        if not self.rules or not self.rules[-1].unconditional:
            raise ValueError(
                f"the last rule of {self.name!r} has conditions, or there is none: end with a Rule "
                "that has a mode, a why and sources alone, for all other products."
            )
        if self.half not in get_args(Half):
            raise ValueError(
                f"Runtime.half is {self.half!r}; allowed: {', '.join(map(repr, get_args(Half)))}."
            )

    def rule(self, case: Case) -> Rule:
        """The one that decides about a product."""
        return next(rule for rule in self.rules if rule.fits(case))

    @property
    def multiplies_fp4(self) -> bool:
        """Whether anything runs on FP4 units."""
        return any(rule.mode.units == "FP4" for rule in self.rules)


_RUNTIMES: Registry[Runtime] = Registry("target")


def register_runtime(runtime: Runtime) -> None:
    """Makes a runtime known by its name, to ``fp4jax targets --target`` too.

    Raises:
        ValueError: the name is taken by another one.

    Example:
        >>> from fp4jax.deploy.runtimes.mode import FLOAT
        >>> rule = Rule(mode=FLOAT, why="no 4-bit kernels", sources=("https://example.org",))
        >>> register_runtime(Runtime("mine", "a runtime of float32", (rule,)))
        >>> get_runtime("mine").multiplies_fp4
        False
        >>> _RUNTIMES.remove("mine")
    """
    _RUNTIMES.add(runtime.name, runtime)


def runtime_names() -> tuple[str, ...]:
    """Names of all runtimes.

    Example:
        >>> import fp4jax.deploy
        >>> runtime_names()[:3]
        ('tensorrt', 'tensorrt-rtx', 'openvino')
    """
    return tuple(_RUNTIMES)


def get_runtime(runtime: str | Runtime) -> Runtime:
    """A runtime by name; a Runtime is returned as it is.

    Raises:
        ValueError: an unknown name; the message lists the known ones.
    """
    return runtime if isinstance(runtime, Runtime) else _RUNTIMES.find(runtime)
