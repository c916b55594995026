"""The recipes as data: names, ids, operands, and what a Recipe refuses."""

import dataclasses

import pytest

import fp4jax as fp4
from fp4jax import Recipe, TensorSpec
from fp4jax.ops.recipe import ROLES

PAPER = [
    "baseline", "full", "forward_only", "chain_rule", "2d+rht", "2d+rht+sr", "sr",
    "forward_only+rht",
]  # fmt: skip
FURTHER = [
    "forward_only+rht_literal", "forward_only+2d+rht", "forward_only+4o6", "2d+rht+sr+4o6",
    "sr_unbiased", "2d+rht+sr_unbiased", "forward_only+lsq", "forward_only+clip",
]  # fmt: skip

SPECS = {
    "-": None,
    "R": TensorSpec(),
    "2D": TensorSpec(block=(16, 16)),
    "SR": TensorSpec(rounding="stochastic"),
    "USR": TensorSpec(rounding="stochastic_unbiased"),
    "RHT": TensorSpec(hadamard=True),
    "RHT+SR": TensorSpec(hadamard=True, rounding="stochastic"),
    "RHT+USR": TensorSpec(hadamard=True, rounding="stochastic_unbiased"),
    "4/6": TensorSpec(scaling="four_over_six"),
    "LSQ": TensorSpec(amax="learned"),
    "CLIP": TensorSpec(clip=0.9),
    "2D4/6": TensorSpec(scaling="four_over_six", block=(16, 16)),
}
# name             fprop x, w   dgrad g, w    wgrad x, g     residuals
TABLE = """
baseline           -    -       -    -        -    -         original
full               R    R       R    R        R    R         original
forward_only       R    R       -    -        -    -         original
chain_rule         R    R       -    -        -    -         quantized
2d+rht             R    2D      R    2D       RHT  RHT       original
2d+rht+sr          R    2D      SR   2D       RHT  RHT+SR    original
sr                 R    R       SR   R        R    SR        original
forward_only+rht   RHT  RHT     -    -        -    -         original
forward_only+rht_literal  R  R  -    -        -    -         original
forward_only+2d+rht  R  2D      -    -        -    -         original
forward_only+4o6   4/6  4/6     -    -        -    -         original
2d+rht+sr+4o6      4/6  2D4/6   SR   2D4/6    RHT  RHT+SR    original
sr_unbiased        R    R       USR  R        R    USR       original
2d+rht+sr_unbiased R    2D      USR  2D       RHT  RHT+USR   original
forward_only+lsq   LSQ  R       -    -        -    -         original
forward_only+clip  CLIP R       -    -        -    -         original
"""
ROWS = [line.split() for line in TABLE.strip().splitlines()]


def test_names_in_order_and_ids():
    assert fp4.recipes() == (*PAPER, *FURTHER)
    for number, name in enumerate(PAPER):
        assert fp4.get_recipe(number) is fp4.get_recipe(name)
        assert fp4.get_recipe(str(number)) is fp4.get_recipe(name)
        assert fp4.get_recipe(name).name == name


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_operands(row):
    """Section 2 of the numerics, as data."""
    name, *specs, residuals = row
    recipe = fp4.get_recipe(name)
    assert recipe.operands == tuple(SPECS[spec] for spec in specs)
    assert recipe.residuals == residuals
    assert recipe.quantizes == (name != "baseline")
    assert recipe.stochastic == any("SR" in spec for spec in specs)


def test_the_table_is_complete():
    assert [row[0] for row in ROWS] == list(fp4.recipes())


def test_operands_are_in_the_order_of_roles():
    assert ROLES == ("fprop.x", "fprop.w", "dgrad.g", "dgrad.w", "wgrad.x", "wgrad.g")
    recipe = fp4.get_recipe("2d+rht+sr")
    pairs = {role: getattr(recipe, role.split(".")[0]) for role in ROLES}
    assert recipe.operands == tuple(pairs[role][i % 2] for i, role in enumerate(ROLES))


def test_a_recipe_is_returned_as_it_is():
    recipe = Recipe(name="own", fprop=(TensorSpec(), None))
    assert fp4.get_recipe(recipe) is recipe


@pytest.mark.parametrize("unknown", ["", "Full", "recipe5", "99", "1.0", -1, 8, True])
def test_an_unknown_recipe_lists_the_known_ones(unknown):
    with pytest.raises(
        ValueError, match=r"no recipe .*; known names: baseline, full, .*; ids 0 to 7\."
    ) as error:
        fp4.get_recipe(unknown)
    assert all(name in str(error.value) for name in fp4.recipes())


def test_recipes_are_values():
    assert len({fp4.get_recipe(name) for name in fp4.recipes()}) == len(fp4.recipes())
    for name in fp4.recipes():
        recipe = fp4.get_recipe(name)
        copy = dataclasses.replace(recipe)
        assert (copy, hash(copy)) == (recipe, hash(recipe))
        assert copy is not recipe
        ablation = dataclasses.replace(recipe, name="own", wgrad=(SPECS["R"], SPECS["SR"]))
        assert ablation != recipe
        assert ablation.fprop == recipe.fprop
        assert ablation.stochastic
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.residuals = "quantized"


@pytest.mark.parametrize("field", ["fprop", "dgrad", "wgrad"])
def test_rotating_one_operand_is_refused(field):
    for pair in ((SPECS["RHT"], SPECS["R"]), (None, SPECS["RHT"])):
        with pytest.raises(
            ValueError, match=rf"Recipe\.{field} rotates only one .* on both or on neither"
        ):
            Recipe(name="own", **{field: pair})


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("pair", [TensorSpec(), (TensorSpec(),), ("nvfp4", None), 1])
def test_products_have_two_operands(pair):
    with pytest.raises(ValueError, match=r"Recipe.dgrad is .*; give a pair of TensorSpec or None"):
        Recipe(name="own", dgrad=pair)


@pytest.mark.usefixtures("unchecked_types")
def test_bad_residuals():
    with pytest.raises(ValueError, match="residuals is 'none'; allowed: 'original', 'quantized'"):
        Recipe(name="own", residuals="none")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": None}, "a recipe has no name: "),
        ({"rotations": 2}, "a recipe has no rotations; it has .* a newer version of fp4jax"),
    ],
)
def test_records_that_are_none_of_a_recipe(changes, message):
    record = fp4.get_recipe("full").to_json() | changes
    record = {name: value for name, value in record.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        fp4.Recipe.from_json(record)
