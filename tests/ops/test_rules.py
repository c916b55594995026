"""Rules as a value: which layer gets which recipe, and what a file keeps of them."""

import dataclasses
import json

import pytest

from fp4jax.ops.recipe import Recipe, get_recipe
from fp4jax.ops.rules import Rules, recipe_or_rules

MINE = dataclasses.replace(get_recipe("2d+rht+sr"), name="mine", wgrad=(None, None))


def test_the_first_that_matches_wins():
    rules = Rules.make({r"encoder\.1": None, r"encoder\.": 5, "head": MINE, ".*": "full"})
    paths = ["encoder.0", "encoder.1", "encoder.10", "head", "old.head"]
    names = [recipe and recipe.name for recipe in map(rules.of, paths)]
    assert names == ["2d+rht+sr", None, None, "mine", "full"]


def test_order_and_own_recipes_survive_json():
    rules = Rules.make({"z": MINE, "a": "full", ".*": None})
    text = json.dumps(rules.to_json(), sort_keys=True)
    assert Rules.make(json.loads(text)) == rules
    assert rules.to_json()[1:] == [["a", "full"], [".*", None]]
    turned = Rules.make(rules.rules[::-1])
    assert len({rules.name, turned.name, Rules.make({"z": MINE}).name}) == 3
    assert rules.name.startswith("rules-")


def test_a_mapping_is_a_recipe_or_rules():
    assert recipe_or_rules(MINE.to_json()) == MINE
    assert isinstance(recipe_or_rules({"name": "full", "head": None}), Rules)
    assert recipe_or_rules({"name": "full"}).of("name") == Rules.make({"name": 1}).of("name")
    with pytest.raises(ValueError, match=r"a recipe has none of fprop, dgrad, wgrad: .*'full'"):
        Rules.make({"head": {"name": "full"}})
    with pytest.raises(ValueError, match="'attention_qat' is an attention recipe, not one of lay"):
        recipe_or_rules("attention_qat")
    assert recipe_or_rules([["head", 1]]) == recipe_or_rules({"head": "full"})
    assert isinstance(recipe_or_rules(7), Recipe)


@pytest.mark.parametrize("rules", [{}, [], ["full"], {1: "full"}, [("a", "full", None)]])
def test_no_rules(rules):
    with pytest.raises(ValueError, match=r"^rules are .*; give \{pattern: recipe or None\}"):
        Rules.make(rules)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"(": "full"}, r"^the rule '\(' is no regular expression: "),
        ({"a": "ful"}, "^no recipe 'ful'; known names: baseline, "),
        ({"a": "full"}, r"^no rule matches b\.0, b\.1; add a rule for each, or one for all"),
        ({"c": "full", ".*": 5}, r"^the rule 'c' matches no layer; the layers are: a, b\.0, b\.1"),
        ({".*": "full", "a": None}, r"^the rule 'a' is never reached: rules before it take a\. "),
    ],
)
def test_bad_rules(rules, message):
    paths = ["a", "b.0", "b.1"]
    with pytest.raises(ValueError, match=message):
        Rules.make(rules).assign(paths, paths)


def test_a_last_rule_for_everything_may_be_idle():
    assert Rules.make({"a": 1, "b": 2, ".*": None}).assign("ab", "ab")["b"] == get_recipe(2)
