"""Recipe: which of the six GEMM operands of a layer is quantized, and how; the named recipes.

For y = x w with g = dL/dy, a layer runs three GEMMs of two operands each:

    fprop  y = x w    contracts K    (x, w)
    dgrad  dx = g w^T contracts N    (g, w)
    wgrad  dw = x^T g contracts M    (x, g)

Blocks always run along the contracted axis, so a tensor is quantized once per GEMM it enters.
"""

import dataclasses
import numbers
from collections.abc import Mapping
from typing import Any, Literal, get_args

from fp4jax.core.number_format import NVFP4, Format, format_names, get_format
from fp4jax.core.spec import TensorSpec, shown
from fp4jax.ops.spec_records import check_known, spec_of, spec_record
from fp4jax.registration import Registry

Operands = tuple[TensorSpec | None, TensorSpec | None]
Residuals = Literal["original", "quantized"]

_HIGH_PRECISION: Operands = (None, None)
_PRODUCTS = ("fprop", "dgrad", "wgrad")

#: The six operands in the order in which they draw random keys.
ROLES = ("fprop.x", "fprop.w", "dgrad.g", "dgrad.w", "wgrad.x", "wgrad.g")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """A TensorSpec, or None for high precision, for each of the six operands.

    A hashable value: two equal recipes share one compilation, ``dataclasses.replace`` makes an
    ablation, and the difference of two recipes is the difference of two dataclasses.

    Attributes:
        name: what runs, tables and figures call it; two recipes of other names are not equal.
        fprop: specs of (x, w) in ``y = x w``, blocks along K, the input features.
        dgrad: specs of (g, w) in ``dx = g w^T``, blocks along N, the output features; g = dL/dy.
        wgrad: specs of (x, g) in ``dw = x^T g``, blocks along M, the examples (and positions). With
            ``hadamard`` in both specs of a product, both operands are rotated along its contracted
            axis: ``(x^T H)(H^T g) = x^T g`` but for the rounding.
        residuals: what dgrad and wgrad start from. ``"original"``: x and w as they were, quantized
            once more where a spec says so. ``"quantized"``: Q(x) and Q(w) of fprop, the exact
            derivative of the quantized product when Q's own derivative is taken as 1
            (straight-through); specs of dgrad and wgrad then apply to these values.

    Raises:
        ValueError: fprop, dgrad or wgrad is no pair of TensorSpec or None, or only one of the pair
            has ``hadamard``; ``amax="example"`` for w, or for wgrad, which sums over the examples;
            unknown residuals.

    Example:
        >>> import dataclasses
        >>> recipe = get_recipe("2d+rht+sr")
        >>> dataclasses.replace(recipe, name="no_dgrad", dgrad=(None, None)).stochastic
        True
        >>> get_recipe(5) == get_recipe("5") == recipe
        True
    """

    name: str
    fprop: Operands = _HIGH_PRECISION
    dgrad: Operands = _HIGH_PRECISION
    wgrad: Operands = _HIGH_PRECISION
    residuals: Residuals = "original"

    def __post_init__(self) -> None:
        for field in ("fprop", "dgrad", "wgrad"):
            given = getattr(self, field)
            specs = tuple(given) if isinstance(given, tuple | list) else ()
            if len(specs) != 2 or not all(s is None or isinstance(s, TensorSpec) for s in specs):
                raise ValueError(
                    f"Recipe.{field} is {shown(given)}; give a pair of TensorSpec or None, "
                    "one for each operand."
                )
            object.__setattr__(self, field, specs)
            if len({s is not None and s.hadamard for s in specs}) > 1:
                raise ValueError(
                    f"Recipe.{field} rotates only one operand: the Hadamard transform cancels "
                    "only if both operands have hadamard=True. Set it on both or on neither."
                )
        for role, spec in zip(ROLES, self.operands, strict=True):
            if spec is not None and spec.amax == "example" and role not in ("fprop.x", "dgrad.g"):
                why = "w has no examples" if role.endswith("w") else "wgrad sums over the examples"
                raise ValueError(
                    f"{role} has amax='example', but {why}: use 'tensor', 'row' or 'static'."
                )
            if spec is not None and spec.hooked and role != "fprop.x":
                raise ValueError(
                    f"{role} has a clip or a learned amax, whose gradient is made from that of x: "
                    "they are for fprop.x. Use amax='tensor' or 'static', and clip=1."
                )
        if self.residuals not in get_args(Residuals):
            raise ValueError(
                f"Recipe.residuals is {self.residuals!r}; allowed: 'original', 'quantized'."
            )

    @property
    def operands(self) -> tuple[TensorSpec | None, ...]:
        """The six specs in the order of ROLES."""
        return (*self.fprop, *self.dgrad, *self.wgrad)

    @property
    def quantizes(self) -> bool:
        """False for the baseline: nothing is quantized."""
        return any(spec is not None for spec in self.operands)

    @property
    def stochastic(self) -> bool:
        """True if an operand is rounded stochastically, so that a key is needed."""
        return any(spec is not None and spec.stochastic for spec in self.operands)

    @property
    def stochastic_forward(self) -> bool:
        """True if an operand of the forward pass is rounded stochastically."""
        return any(spec is not None and spec.stochastic for spec in self.fprop)

    @property
    def shares_w(self) -> bool:
        """True if fprop and dgrad take w in the same codes: equal tiles, or one scale for all."""
        (_, fprop), (_, dgrad) = self.fprop, self.dgrad
        if fprop is None or fprop != dgrad or fprop.stochastic:
            return False
        return fprop.tiles or (fprop.block, fprop.amax, fprop.hadamard) == (None, "tensor", False)

    def scope(self, product: str) -> str:
        """What profiles call a product: "fp4_fprop", or "fprop" if not both operands are FP4.

        Of other formats than NVFP4: "mxfp8_fprop", "mxfp8*mxfp4_dgrad".

        Example:
            >>> recipe = get_recipe("forward_only")
            >>> recipe.scope("fprop"), recipe.scope("dgrad")
            ('fp4_fprop', 'dgrad')
            >>> get_recipe("mxfp8_forward_only").scope("fprop")
            'mxfp8_fprop'
        """
        specs = getattr(self, product)
        if None in specs:
            return product
        names = dict.fromkeys("fp4" if spec.format == NVFP4 else spec.format.name for spec in specs)
        return f"{'*'.join(names)}_{product}"

    @property
    def without_dgrad_w(self) -> "Recipe":
        """The recipe for a backward pass that gets w quantized already."""
        return dataclasses.replace(self, dgrad=(self.dgrad[0], None))

    def to_json(self) -> dict[str, Any]:
        """The recipe as JSON holds it, for a run whose recipe has no registered name.

        Example:
            >>> get_recipe("forward_only").to_json()["fprop"][0]["rounding"]
            'nearest'
        """
        products = {name: list(map(spec_record, getattr(self, name))) for name in _PRODUCTS}
        return {"name": self.name, **products, "residuals": self.residuals}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Recipe":
        """The recipe that :meth:`to_json` wrote.

        Raises:
            ValueError: fields that a recipe or a TensorSpec does not have, or their values.

        Example:
            >>> recipe = get_recipe("2d+rht+sr")
            >>> Recipe.from_json(recipe.to_json()) == recipe
            True
        """
        known = {field.name for field in dataclasses.fields(cls)}
        check_known(known, record, "a recipe")
        if "name" not in record:
            raise ValueError(f"a recipe has no name: {shown(dict(record))}.")
        if not set(_PRODUCTS) & set(record):
            # All in high precision, under whatever name.
            raise ValueError(
                f"a recipe has none of {', '.join(_PRODUCTS)}: {shown(dict(record))}; a registered "
                "one is known by its name alone, a string."
            )
        values = dict(record)
        for name in set(_PRODUCTS) & set(record):
            if isinstance(pair := record[name], list | tuple):  # else Recipe says what is wrong
                values[name] = tuple(map(spec_of, pair))
        return cls(**values)


_R = TensorSpec()
_TILE = TensorSpec(block=(16, 16))
_SR = TensorSpec(rounding="stochastic")
_SR_UNBIASED = TensorSpec(rounding="stochastic_unbiased")
_RHT = TensorSpec(hadamard=True)
_RHT_SR = TensorSpec(hadamard=True, rounding="stochastic")
_RHT_SR_UNBIASED = TensorSpec(hadamard=True, rounding="stochastic_unbiased")
_LEARNED = TensorSpec(amax="learned")
_CLIP = TensorSpec(clip=0.9)
_4O6 = TensorSpec(scaling="four_over_six")
_4O6_TILE = TensorSpec(scaling="four_over_six", block=(16, 16))

#: The paper's recipes; the position is the paper's id. R: nearest, SR: stochastic rounding.
_PAPER = (
    # Nothing quantized.
    Recipe(name="baseline"),
    # R everywhere, 1x16 blocks, the backward operands re-quantized from the originals.
    Recipe(name="full", fprop=(_R, _R), dgrad=(_R, _R), wgrad=(_R, _R)),
    # R in the forward pass only; the backward pass sees the originals.
    Recipe(name="forward_only", fprop=(_R, _R)),
    # R in the forward pass; the backward pass sees the same quantized x and w, g as it is.
    Recipe(name="chain_rule", fprop=(_R, _R), residuals="quantized"),
    # 16x16 weight tiles, whose codes serve fprop and dgrad, and RHT on both wgrad operands.
    Recipe(name="2d+rht", fprop=(_R, _TILE), dgrad=(_R, _TILE), wgrad=(_RHT, _RHT)),
    # The same with SR on g: TransformerEngine's default NVFP4 recipe.
    Recipe(name="2d+rht+sr", fprop=(_R, _TILE), dgrad=(_SR, _TILE), wgrad=(_RHT, _RHT_SR)),
    # 1x16 blocks, SR on g.
    Recipe(name="sr", fprop=(_R, _R), dgrad=(_SR, _R), wgrad=(_R, _SR)),
    # RHT along K on x and w in the forward pass, 1x16 weights: the reading of the paper's
    # recipe 7 in which the rotation does something.
    Recipe(name="forward_only+rht", fprop=(_RHT, _RHT)),
)

_FURTHER = (
    # Recipe 7 as the paper words it: RHT on the unquantized wgrad operands, where H H^T = 1
    # cancels. Arithmetically recipe 2.
    Recipe(name="forward_only+rht_literal", fprop=(_R, _R)),
    # Recipe 7 as the flags in the authors' code have it: 2D weights (and the RHT that cancels).
    Recipe(name="forward_only+2d+rht", fprop=(_R, _TILE)),
    # Recipe 2 with block maxima mapped to 4 or 6 (arXiv 2512.02010).
    Recipe(name="forward_only+4o6", fprop=(_4O6, _4O6)),
    # Recipe 5 with four-over-six for x and w in the forward pass; dgrad shares w's codes.
    Recipe(
        name="2d+rht+sr+4o6", fprop=(_4O6, _4O6_TILE), dgrad=(_SR, _4O6_TILE), wgrad=(_RHT, _RHT_SR)
    ),
    # Recipes 6 and 5 with unbiased SR: 16/17 head-room and 24 random bits.
    Recipe(name="sr_unbiased", fprop=(_R, _R), dgrad=(_SR_UNBIASED, _R), wgrad=(_R, _SR_UNBIASED)),
    Recipe(
        name="2d+rht+sr_unbiased",
        fprop=(_R, _TILE),
        dgrad=(_SR_UNBIASED, _TILE),
        wgrad=(_RHT, _RHT_SR_UNBIASED),
    ),
    # Recipe 2 with an amax of x that is a parameter of the layer, learned by LSQ's gradient (arXiv
    # 1902.08153).
    Recipe(name="forward_only+lsq", fprop=(_LEARNED, _R)),
    # Recipe 2 with x clipped at 0.9 of its largest magnitude.
    Recipe(name="forward_only+clip", fprop=(_CLIP, _R)),
)

_RECIPES: Registry[Recipe] = Registry("recipe")


def register_recipe(recipe: Recipe) -> None:
    """Makes a recipe known by its name to :func:`get_recipe`, and with it to every command.

    Also ``recipes.register``. A registered recipe has no id.

    Args:
        recipe: its name has letters, digits and ``_ . + -``, and is not a number. Registering an
            equal recipe again does nothing.

    Raises:
        ValueError: the name is taken by another recipe, or cannot be one.

    Example:
        >>> import dataclasses
        >>> half = dataclasses.replace(get_recipe("2d+rht+sr"), name="no_wgrad", wgrad=(None, None))
        >>> register_recipe(half)
        >>> get_recipe("no_wgrad").wgrad, recipes()[-1]
        ((None, None), 'no_wgrad')
        >>> _RECIPES.remove("no_wgrad")
    """
    if not isinstance(recipe, Recipe):
        raise ValueError(f"what was to be registered is {shown(recipe)}; give a Recipe.")
    if recipe.name.isdecimal():
        raise ValueError(
            f"the name of a recipe is {recipe.name!r}, which is taken for an id; give it a name "
            "with a letter."
        )
    _RECIPES.add(recipe.name, recipe)


for _recipe in _PAPER + _FURTHER:
    register_recipe(_recipe)


def recipes() -> tuple[str, ...]:
    """Names of all recipes: the paper's eight in the order of their ids, further ones, users' own.

    Recipe 7 exists in three readings. As the paper words it, RHT on the unquantized operands of
    wgrad, it is recipe 2, since the rotation cancels: ``forward_only+rht_literal``. The flags in
    the authors' code add 16x16 weights: ``forward_only+2d+rht``. Id 7, ``forward_only+rht``, is the
    reading in which the rotation does something: RHT along K on x and w in the forward pass.

    Example:
        >>> recipes()[:3]
        ('baseline', 'full', 'forward_only')
    """
    return tuple(_RECIPES)


# As models, losses and data have it.
recipes.register = register_recipe  # type: ignore[attr-defined]


def with_format(recipe: str | int | Recipe, format: str | Format) -> Recipe:
    """The recipe with every quantized operand in another format, named "FORMAT_RECIPE".

    16x16 tiles become tiles of the format's block length. A format without blocks has none: its
    one scale serves w in fprop and dgrad, as a tile's does. Rotation, rounding, residuals and what
    amax spans stay; of "stochastic_unbiased" see :class:`fp4jax.TensorSpec`.

    Args:
        recipe: a Recipe, its name, or the paper's id.
        format: a Format or a registered one's name; "nvfp4" is what all named recipes have.

    Raises:
        ValueError: a recipe that quantizes nothing, or that needs what the format does not have:
            four-over-six, an amax for each row or example where there is no tensor scale.

    Example:
        >>> recipe = with_format("2d+rht+sr", "mxfp4")
        >>> recipe.name, recipe.fprop[1].block
        ('mxfp4_2d+rht+sr', (32, 32))
        >>> recipe == get_recipe("mxfp4_2d+rht+sr")
        True
        >>> with_format(recipe, "nvfp4") == get_recipe("2d+rht+sr")
        True
    """
    recipe, format = get_recipe(recipe), get_format(format)
    if not recipe.quantizes:
        raise ValueError(f"recipe {recipe.name!r} quantizes nothing, so it has no format.")
    base = recipe.name
    for spec in recipe.operands:
        base = base if spec is None else base.removeprefix(f"{spec.format.name}_")
    try:
        specs = {
            product: tuple(
                s if s is None else s.in_format(format) for s in getattr(recipe, product)
            )
            for product in _PRODUCTS
        }
    except ValueError as error:
        raise ValueError(f"recipe {base!r} has no form in {format.name}: {error}") from None
    name = base if format == NVFP4 else f"{format.name}_{base}"
    return dataclasses.replace(recipe, name=name, **specs)


def format_and_recipe(name: str) -> tuple[str, str] | None:
    """("mxfp4", "full") of "mxfp4_full"; None unless both are registered."""
    for format in format_names():
        base = name.removeprefix(f"{format}_")
        if base != name and base in _RECIPES:
            return format, base
    return None


def get_recipe(recipe: str | int | Recipe | Mapping[str, Any]) -> Recipe:
    """A recipe by name or by the paper's id (0 to 7); a Recipe is returned as it is.

    The id may be a string, as a command line passes it. A mapping is a recipe as JSON has it
    (:meth:`Recipe.to_json`). A name after that of a format, "mxfp4_full", is :func:`with_format`'s.

    Raises:
        ValueError: for an unknown name or id; the message lists the known ones.

    Example:
        >>> get_recipe("int8_forward_only").fprop[0].format.name
        'int8'
    """
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, Mapping):
        return Recipe.from_json(recipe)
    if isinstance(recipe, str) and recipe.isdecimal():
        recipe = int(recipe)
    is_id = isinstance(recipe, numbers.Integral) and not isinstance(recipe, bool)
    if is_id and 0 <= int(recipe) < len(_PAPER):
        return _PAPER[int(recipe)]
    if isinstance(recipe, str) and recipe in _RECIPES:
        return _RECIPES.find(recipe)
    if isinstance(recipe, str) and (parts := format_and_recipe(recipe)) is not None:
        format, base = parts
        return with_format(base, format)
    raise ValueError(
        f"no recipe {shown(recipe)}; known names: {', '.join(_RECIPES)}; "
        f"ids 0 to {len(_PAPER) - 1}. FORMAT_NAME, such as mxfp4_full, is one in another format: "
        f"{', '.join(format_names())}."
    )
