"""Planted effects are confirmed with their intervals, absent ones not, missing ones are open."""

import functools
import itertools
import math

import pytest

from fp4jax.analysis.claims import variance
from fp4jax.analysis.claims.contrasts import compared
from fp4jax.analysis.claims.coverage import expected_folds
from fp4jax.analysis.claims.parts import CONFIRMED, NOT_CONFIRMED, OPEN
from fp4jax.analysis.claims.rules import CLAIMS, decided
from fp4jax.analysis.claims.variance import variances
from fp4jax.ops.recipe import get_recipe
from tests.fabricated_scores import STATED, study, without


@pytest.fixture(autouse=True)
def no_random_effects(monkeypatch):
    """No rule asks for them, and they take most of the time."""
    monkeypatch.setattr(variance, "_random", lambda design: ({"residual": 1.0}, True))


def verdicts(whole):
    """By AUPRC: (part -> its row, claim -> its verdict)."""
    return decisions(*measured(whole))


def measured(whole):
    """Contrasts and variances, by AUPRC."""
    contrasts = compared(whole, 200, ("auprc",))
    return contrasts, variances(whole.scores, "auprc", expected_folds(whole.runs), 500)


def decisions(contrasts, spread):
    rows = decided(contrasts, spread, "auprc").to_dict(orient="records")
    assert {row["claim"] for row in rows} == set(CLAIMS)
    parts = {f"{row['claim']}{row['part']}": row for row in rows}
    return parts, {row["claim"]: row["of_claim"] for row in rows}


EVERY = tuple(get_recipe(i).name for i in range(8))
# What the paper says, at every scale.
PLANTED = {
    ("cnn", "full"): 0.08,
    ("cnn", "2d+rht+sr"): 0.04,
    ("vit", "full"): 0.07,
}


@functools.cache
def as_the_paper_says():
    gaps = {"vit": 0.1, "swin": -0.1, "500k": 0.05}
    scales = ("500k", "4m", "15m")
    whole = study(1, loss=PLANTED, gaps=gaps, labels=EVERY, scales=scales, patients=40)
    # Every recipe is needed in Swin at 4M alone.
    others = itertools.product(("cnn", "vit", "swin"), scales, set(EVERY) - set(STATED))
    for arch, scale, recipe in others:
        if (arch, scale) == ("swin", "4m"):
            continue
        whole = without(whole, arch=arch, scale=scale, recipe=recipe)
    return whole


@functools.cache
def measured_as_the_paper_says():
    return measured(as_the_paper_says())


def test_all_claims_of_a_study_that_is_as_the_paper_says():
    parts, claims = decisions(*measured_as_the_paper_says())
    assert set(claims.values()) == {CONFIRMED}
    for part, effect in (("2a", 0.06), ("2b", 0.04), ("3a", 0.07), ("3b", 0.07), ("5b", 0.04)):
        assert parts[part]["low"] < effect < parts[part]["high"], part
    assert parts["5a"]["low"] < 0 < parts["5a"]["high"]
    assert parts["2a"]["measured"] == "CNN at 15m: forward only - gradients"
    assert parts["5a"]["measured"] == "Swin at 4m: baseline - 2d+rht+sr"
    assert parts["3a"]["measured"] == "ViT at 500k: baseline - full"
    assert parts["4a"]["low"] < 0.05 < parts["4a"]["high"]
    assert not any(row["lacks"] for row in parts.values())


def test_the_opposite_is_not_confirmed():
    loss = {("cnn", "full"): -0.08, ("cnn", "2d+rht+sr"): -0.15, ("swin", "2d+rht+sr"): 0.1}
    parts, claims = verdicts(study(2, loss=loss, patients=22))
    assert [parts[p]["verdict"] for p in ("1b", "2a", "5a", "5b")] == [NOT_CONFIRMED] * 4
    assert parts["2b"]["verdict"] == CONFIRMED
    # At one scale it is not so, thus not at every one.
    assert claims[1] == NOT_CONFIRMED
    # They are about larger scales, which are not there.
    assert claims[2] == claims[4] == claims[5] == OPEN
    assert [parts[p]["claim_lacks"] for p in ("1a", "2a", "5a")] == ["", "a scale above 500K", "4M"]
    everywhere = {(arch, "full"): 0.1 for arch in ("cnn", "vit", "swin")}
    parts, claims = verdicts(study(3, loss=everywhere))
    assert parts["1a"]["verdict"] == claims[1] == NOT_CONFIRMED


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_confirmed_where_there_is_nothing(seed):
    parts, claims = verdicts(study(seed, patients=22))
    assert CONFIRMED not in claims.values()
    # That two are equal may be shown.
    assert CONFIRMED not in {row["verdict"] for name, row in parts.items() if name != "5a"}
    assert parts["3b"]["verdict"] == OPEN


def test_what_is_missing_decides_nothing_and_is_named():
    whole = as_the_paper_says()
    parts, claims = verdicts(without(whole, recipe="2d+rht+sr", arch="swin"))
    assert (parts["5a"]["verdict"], parts["5a"]["lacks"]) == (
        OPEN,
        "recipe 5 and the baseline in Swin",
    )
    assert claims[5] == OPEN
    # A fold of one recipe: its contrasts are shown, and open.
    lacking = without(whole, recipe="full", arch="vit", split="fold3")
    parts, claims = verdicts(lacking)
    assert (parts["3a"]["verdict"], parts["3a"]["lacks"]) == (OPEN, "1 of 5 folds")
    assert parts["3a"]["low"] < 0.07 < parts["3a"]["high"]
    assert claims[3] == OPEN
    # Without the baseline, or a single run.
    parts, claims = verdicts(without(without(whole, recipe="baseline"), recipe="full"))
    assert set(claims.values()) == {OPEN}
    assert all(parts[name]["lacks"] for name in ("2b", "3a", "4a", "4b", "5a", "5b"))


def test_a_claim_waits_for_the_scales_that_it_is_about():
    parts, claims = decisions(*(own[own["scale"] != "4m"] for own in measured_as_the_paper_says()))
    assert parts["1a"]["verdict"] == parts["1b"]["verdict"] == CONFIRMED
    assert (claims[1], parts["1a"]["claim_lacks"]) == (OPEN, "4M")
    assert claims[2] == CONFIRMED
    assert (claims[5], parts["5a"]["claim_lacks"]) == (OPEN, "4M")
    assert parts["5a"]["measured"].startswith("Swin at 15m")


def test_every_scale_must_be_as_the_first_claim_says():
    contrasts, spread = measured_as_the_paper_says()
    there = (spread["source"] == "architecture - recipe") & (spread["scale"] == "4m")
    other = spread.assign(high=spread["high"].mask(there, -1e-4), low=spread["low"].mask(there, -1))
    parts, claims = decisions(contrasts, other)
    assert (parts["1a"]["scale"], claims[1]) == ("4m", NOT_CONFIRMED)


def test_an_effect_within_the_margin_is_none():
    loss = {("swin", "2d+rht+sr"): 0.008}
    parts, _ = verdicts(study(3, loss=loss, patients=60, labels=STATED, archs=("swin", "cnn")))
    assert parts["5a"]["verdict"] == CONFIRMED
    assert parts["5a"]["low"] > 0
    assert parts["5a"]["high_90"] < 0.02
    # Of variances there is none.
    assert math.isnan(parts["1a"]["high_90"])


def test_every_recipe_is_all_seven():
    some = {"scales": ("500k", "4m"), "patients": 60, "gaps": {"500k": 0.05}}
    whole = study(5, labels=("baseline", "2d+rht+sr"), archs=("swin",), **some)
    part = verdicts(whole)[0]["4b"]
    assert part["verdict"] == OPEN
    assert part["lacks"].startswith("in Swin at 4m, forward_only (2), forward_only+rht (7), chain")
    assert part["low"] < 0 < part["high"]
    # A recipe that costs much does not decide it either.
    loss = {("swin", "full"): 0.2}
    whole = study(5, labels=("baseline", "full"), archs=("swin",), loss=loss, **some)
    assert verdicts(whole)[0]["4b"]["verdict"] == OPEN


def test_every_architecture_that_collapses_is_judged():
    loss = {("vit", "full"): 0.08, ("swin", "full"): 0.2}
    kept = {("swin", "2d+rht+sr"): 0.2}
    two = {"archs": ("vit", "swin"), "patients": 40, "labels": ("baseline", "full", "2d+rht+sr")}
    parts, claims = verdicts(study(loss=loss | kept, **two))
    assert (parts["3a"]["verdict"], parts["3b"]["verdict"]) == (CONFIRMED, NOT_CONFIRMED)
    assert parts["3b"]["measured"].startswith("Swin at 500k")
    assert claims[3] == NOT_CONFIRMED
    assert verdicts(study(loss=loss, **two))[1][3] == CONFIRMED
    # Where one of them is not known.
    parts, claims = verdicts(without(study(loss=loss, **two), arch="swin", recipe="2d+rht+sr"))
    assert (parts["3b"]["verdict"], parts["3b"]["lacks"]) == (
        OPEN,
        "in Swin, one of (4, 5, 6) with all folds",
    )
    parts, claims = verdicts(without(study(loss=loss, **two), arch="swin", recipe="full"))
    assert parts["3a"]["lacks"] == "recipe 1 and the baseline in the ViT and in Swin at 500k"
    assert claims[3] == OPEN


def test_architectures_without_swin_decide_nothing():
    whole = study(gaps={"vit": 0.3}, archs=("cnn", "vit"), patients=22)
    part = verdicts(whole)[0]["1a"]
    assert (part["verdict"], part["lacks"][-16:]) == (OPEN, "one of them Swin")


def test_one_holdout_is_no_five_folds():
    loss = {("cnn", "2d+rht+sr"): 0.1}
    whole = study(1, archs=("cnn", "swin"), loss=loss, patients=40)
    assert verdicts(whole)[0]["5a"]["verdict"] == CONFIRMED
    for frame in (whole.runs, whole.patients):
        frame["split"] = "holdout"
    parts, claims = verdicts(whole)
    assert [parts[p]["verdict"] for p in ("5a", "5b")] == [OPEN, OPEN]
    assert [parts[p]["lacks"] for p in ("5a", "5b")] == ["several folds"] * 2
    assert claims[5] == OPEN


def test_a_scale_that_is_not_complete_hides_none_that_is():
    loss = {("cnn", "full"): 0.08, ("cnn", "2d+rht+sr"): 0.04}
    whole = study(1, loss=loss, archs=("cnn", "swin"), scales=("500k", "4m"), patients=40)
    for fold in range(1, 5):
        whole = without(whole, scale="4m", split=f"fold{fold}")
    for label in ("full", "forward_only"):
        whole = without(whole, scale="4m", recipe=label)
    parts, claims = verdicts(whole)
    assert [parts[p]["scale"] for p in ("1a", "2a", "2b", "5a", "5b")] == ["500k"] * 5
    assert [parts[p]["verdict"] for p in ("2a", "2b", "5a", "5b")] == [CONFIRMED] * 4
    # They are about larger ones.
    assert claims[2] == claims[5] == OPEN
    assert parts["5a"]["claim_lacks"] == "4M"
