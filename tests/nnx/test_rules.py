"""Rules on a model: one call says which layer gets which recipe; remove_recipe takes all back."""

import jax
import pytest
from flax import nnx

from fp4jax.nnx import apply_recipe, pack, remove_recipe, report
from tests.nnx.test_apply_recipe import PATHS, forward, net, precisions
from tests.samples import assert_same_bits

RULES = {r"blocks\.": "2d+rht+sr", "attention": "full", "up|first": "forward_only", "head": None}


def test_each_layer_has_the_recipe_of_its_rule():
    expected = dict.fromkeys(PATHS, "full") | {
        "blocks.0": "2d+rht+sr",
        "blocks.1": "2d+rht+sr",
        "first": "forward_only",
        "up": "forward_only",
        "head": "high precision",
    }
    model = net(RULES)
    assert precisions(model) == expected
    # None also takes an earlier recipe away; keep leaves it.
    assert precisions(apply_recipe(net("sr"), RULES)) == expected
    kept = apply_recipe(net("sr"), {k: r for k, r in RULES.items() if k != "head"}, keep="head")
    assert precisions(kept) == expected | {"head": "sr"}


def test_calls_on_disjoint_layers_leave_each_other_alone():
    in_two = apply_recipe(net(), {"attention": "full", "head": None}, keep="(?!attention|head)")
    rest = {name: RULES[name] for name in (r"blocks\.", "up|first")}
    apply_recipe(in_two, rest, keep="attention|head")
    assert_same_bits(forward(in_two), forward(net(RULES)))
    of_a_part = net(RULES)
    apply_recipe(of_a_part.attention, "sr")
    changed = {p: "sr" for p in PATHS if p.startswith("attention")}
    assert precisions(of_a_part) == precisions(net(RULES)) | changed


def test_rules_that_leave_layers_out_change_nothing():
    model = net()
    with pytest.raises(ValueError, match=r"no rule matches head, up; add a rule"):
        apply_recipe(model, {"attention|blocks|first": "full"})
    with pytest.raises(ValueError, match=r"the rule 'heads' matches no layer"):
        apply_recipe(model, {"heads": None, ".*": "full"})
    assert not report(model).quantized


def test_remove_recipe():
    fresh, model = net(), net(RULES)
    params = nnx.state(model, nnx.Param)
    assert remove_recipe(model) is model
    assert nnx.graphdef(model) == nnx.graphdef(fresh)
    jax.tree.map(assert_same_bits, nnx.state(model), nnx.state(fresh))
    jax.tree.map(assert_same_bits, nnx.state(model, nnx.Param), params)
    assert nnx.graphdef(remove_recipe(net())) == nnx.graphdef(fresh)
    assert precisions(apply_recipe(model, RULES)) == precisions(net(RULES))


def test_what_cannot_be_removed():
    foreign = nnx.Linear(4, 4, dot_general=lambda *a, **k: None, rngs=nnx.Rngs(0))
    held = foreign.dot_general
    assert remove_recipe(foreign).dot_general is held
    with pytest.raises(ValueError, match="is packed"):
        remove_recipe(pack(net("forward_only")))
