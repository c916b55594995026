"""Groups of recipes: only whole ones, on the same patients, with equal weights."""

from typing import Any

import numpy as np
import pytest

from fp4jax.analysis.claims.contrasts import compared
from tests.fabricated_scores import STATED, study, without


def of(whole, name, **values):
    found: Any = compared(whole, 100, ("auprc",))
    found = found[found["contrast"] == name]
    for column, value in values.items():
        found = found[found[column] == value]
    return found.to_dict(orient="records")


def test_groups_are_means_over_their_recipes():
    whole = study(labels=(*STATED, "chain_rule", "sr"), archs=("cnn",))
    (row,) = of(whole, "gradients")
    wide = whole.scores.pivot(index="patient", columns="label", values="auprc")
    forward = wide[["forward_only", "chain_rule"]].mean(axis=1)
    gradients = wide[["full", "2d+rht+sr", "sr"]].mean(axis=1)
    assert row["difference"] == pytest.approx((forward - gradients).mean())
    assert (
        row["members"] == "forward only: forward_only, chain_rule; gradients: full, 2d+rht+sr, sr"
    )
    assert (row["a"], row["b"], row["n"], row["family_size"]) == (
        "forward only",
        "gradients",
        55,
        1,
    )


def test_a_recipe_without_all_folds_is_in_no_group():
    whole = study(labels=(*STATED, "chain_rule"), archs=("cnn",))
    (row,) = of(without(whole, recipe="chain_rule", split="fold2"), "gradients")
    assert "chain_rule" not in row["members"]
    assert row["n"] == 55
    assert not of(without(whole, recipe="full", split="fold2"), "advanced")


def test_a_second_seed_counts_where_every_recipe_has_it():
    whole = study(archs=("cnn",), seeds=(1, 2))
    (both,) = of(whole, "gradients")
    (some,) = of(without(without(whole, recipe="full", seed=2), recipe="sr"), "gradients")
    assert (both["seeds"], some["seeds"]) == (2, 1)
    assert some["members"] == both["members"]


def test_what_the_architectures_lose_is_compared_patient_by_patient():
    whole = study(archs=("cnn", "swin"))
    (row,) = of(whole, "architectures")
    wide = whole.scores.pivot(index="patient", columns=["arch", "label"], values="auprc")
    lost = [wide[arch]["baseline"] - wide[arch]["2d+rht+sr"] for arch in ("cnn", "swin")]
    assert (row["a"], row["b"]) == ("loss of cnn", "loss of swin")
    assert row["difference"] == pytest.approx(np.mean(lost[0] - lost[1]))


def test_other_methods_are_families_of_their_own():
    whole = study(archs=("cnn",))
    other = whole.patients["recipe"] == "full"
    whole.patients.loc[other, "method"] = "ptq"
    assert [row["b"] for row in of(whole, "recipes ptq")] == ["ptq full"]
    assert [row["family_size"] for row in of(whole, "recipes")] == [2, 2]
