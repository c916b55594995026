"""Groups of recipes: only whole ones, on the same patients, with equal weights."""

import functools
from typing import Any

import numpy as np
import pytest

from fp4jax.analysis.claims import all_tables, draw, filled, tables, variance
from fp4jax.analysis.claims.contrasts import compared
from fp4jax.analysis.claims.parts import CONFIRMED
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


TWO: Any = {"archs": ("cnn", "swin"), "patients": 2}
PARTIAL = {
    "a scale without baseline and recipe 5": lambda: without(
        without(study(scales=("500k", "4m"), **TWO), scale="4m", recipe="baseline"),
        scale="4m",
        recipe="2d+rht+sr",
    ),
    "neither anywhere": lambda: study(labels=("full", "sr"), **TWO),
    "a baseline alone": lambda: study(labels=("baseline",), archs=("swin",)),
    "baselines of two scales": lambda: study(labels=("baseline",), scales=("500k", "4m"), **TWO),
    "no baseline in Swin": lambda: without(study(**TWO), arch="swin", recipe="baseline"),
    "a holdout": lambda: holdout(study(**TWO)),
    "another architecture": lambda: study(archs=("unet",), patients=2),
    "a baseline without scores": lambda: undefined(study(**TWO), "baseline"),
    "no scores": lambda: undefined(study(**TWO), *STATED),
    "all scores equal": lambda: equal(study(**TWO)),
}


def holdout(whole):
    for frame in (whole.runs, whole.patients):
        frame["split"] = "holdout"
    return whole


def undefined(whole, *recipes):
    whole.patients.loc[whole.patients["recipe"].isin(recipes), ["auprc", "f2"]] = np.nan
    return whole


def equal(whole):
    whole.patients[["auprc", "f2"]] = 0.0
    return whole


@pytest.mark.parametrize("name", PARTIAL)
def test_any_partial_study_has_tables(name, monkeypatch, tmp_path):
    monkeypatch.setattr(variance, "_random", lambda design: ({"residual": 0.0}, True))
    monkeypatch.setattr(tables, "compared", functools.partial(compared, metrics=("auprc",)))
    partial = PARTIAL[name]()
    made = all_tables(partial, 10)
    partial.write(tmp_path)
    made.write(tmp_path)
    assert CONFIRMED not in set(made.claims["of_claim"])
    filled(
        "<!-- groups -->\n<!-- parts -->\n".replace("\n", "\n<!-- end -->\n"), tmp_path, tmp_path
    )
    draw(partial, made)


def test_a_patient_counts_in_a_group_with_all_values_or_not_at_all():
    whole = study(labels=(*STATED, "chain_rule"), archs=("cnn",))
    gone = (whole.patients["recipe"] == "chain_rule") & (whole.patients["patient"] == "p0_0")
    whole.patients.loc[gone, "auprc"] = np.nan
    found = compared(whole, 100, ("auprc",)).set_index("contrast")
    row, other = found.loc["gradients"], found.loc["advanced"]
    wide = whole.scores.pivot(index="patient", columns="label", values="auprc").dropna()
    forward = wide[["forward_only", "chain_rule"]].mean(axis=1)
    gradients = wide[["full", "2d+rht+sr"]].mean(axis=1)
    assert row["difference"] == pytest.approx((forward - gradients).mean())
    assert (row["n"], row["of_patients"]) == (54, 55)
    assert (other["n"], other["of_patients"]) == (55, 55)
