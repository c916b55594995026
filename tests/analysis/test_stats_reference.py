"""Statistics of a study's runs are those of the reference's tables."""

import json

import numpy as np
import pandas as pd
import pytest

from fp4jax.analysis import stats
from fp4jax.analysis.stats.power import holm
from fp4jax.ops.recipe import recipes

METRIC = "test_auprc"


@pytest.fixture(scope="module")
def tables(shared):
    def load(name):
        table = pd.read_csv(shared / "golden" / f"ref_stats_{name}.csv")
        return table.rename(columns={"model_size": "scale"})

    return load


@pytest.fixture(scope="module")
def study(tables):
    table = tables("input").rename(columns={"auprc": METRIC})
    labels = [recipes()[i] for i in table["recipe_id"]]
    # In another order than the reference's.
    return table.assign(label=labels, split="holdout").sample(frac=1, random_state=0)


def aligned(found, expected, keys):
    """Both with one index, the reference's recipes by our names."""
    for key in keys:
        if key.startswith("recipe"):
            expected = expected.assign(**{key: [recipes()[i] for i in expected[key]]})
    ours = {"recipe_id": "label", "recipe_1": "a", "recipe_a": "a", "recipe_2": "b"}
    found = found.set_index(["arch", "scale", *(ours.get(k, "b") for k in keys)]).sort_index()
    expected = expected.set_index(["arch", "scale", *keys]).sort_index()
    assert list(found.index) == list(expected.index)
    return found, expected


def equal(found, expected, names, **tolerance):
    for ours, reference in names.items():
        np.testing.assert_allclose(
            found[ours].astype(float), expected[reference].astype(float), err_msg=ours, **tolerance
        )


def test_summary_is_the_references(study, tables):
    found, expected = aligned(stats.summary(study), tables("summary"), ["recipe_id"])
    names = {"mean": "mean", "sd": "std", "n": "count", "min": "min", "max": "max"}
    equal(found, expected, names | {"ci_low": "ci_lower", "ci_high": "ci_upper"}, rtol=1e-12)


def test_comparisons_within_a_group_are_the_references(study, tables):
    found = stats.compare(study, pairs="all", resamples=100)
    assert len(found) == 4 * 28
    found, expected = aligned(found, tables("pairwise"), ["recipe_1", "recipe_2"])
    names = {"n": "n_seeds", "mean_a": "mean_1", "mean_b": "mean_2", "difference": "mean_diff"}
    names |= {"statistic": "wilcoxon_stat", "p": "p_value", "p_holm": "p_corrected"}
    equal(found, expected, names | {"d_z": "cohens_d"}, rtol=1e-9, atol=1e-15)
    assert ((found["p_holm"] < 0.05) == expected["significant_005_corrected"]).all()
    assert (found["family_size"] == 28).all()
    assert not found["reachable"].any()


def test_comparisons_over_all_groups_are_the_references(study, tables):
    found = stats.compare(study, pairs="all", family="all", resamples=100)
    found, expected = aligned(found, tables("pairwise_main"), ["recipe_a", "recipe_b"])
    # It rounds to 6 digits, d to 4.
    names = {"n": "n_pairs", "difference": "mean_diff", "statistic": "wilcoxon_stat"}
    equal(found, expected, names | {"p": "p_value"}, rtol=0, atol=6e-7)
    equal(found, expected, {"d_z": "cohens_d"}, rtol=0, atol=6e-5)
    # ... and corrects the rounded p.
    equal(found, expected, {"p_holm": "p_corrected"}, rtol=0, atol=112 * 5e-7)
    of_rounded = found.assign(p_holm=holm(found["p"].to_numpy().round(6)))
    equal(of_rounded, expected, {"p_holm": "p_corrected"}, rtol=0, atol=6e-7)
    assert (found["family_size"] == 112).all()


def test_concordance_is_the_references(study, shared):
    reference = json.loads((shared / "golden" / "ref_stats_kendall.json").read_text())
    found = stats.kendall(study)
    assert len(found) == len(reference) == 4
    for row in found.to_dict("records"):
        expected = reference[f"{row['arch']}|{row['scale']}"]
        w = expected["kendalls_w"]
        assert row["w"] == pytest.approx(w, rel=1e-12)
        assert row["verdict"] == ("strong" if w > 0.7 else "moderate")
        assert (row["n"], row["labels"], row["left_out"]) == (10, 8, 0)
        for ours, theirs in (("mean_ranks", "mean_ranks"), ("sd_ranks", "rank_std")):
            by_name = {recipes()[int(i)]: v for i, v in expected[theirs].items()}
            assert row[ours] == pytest.approx(by_name, rel=1e-12)


def test_a_pair_is_the_same_among_all_pairs(study):
    against_baseline = stats.compare(study, resamples=200)
    everything = stats.compare(study, pairs="all", resamples=200)
    everything = everything[everything["a"] == "baseline"].reset_index(drop=True)
    corrected = ["p_holm", "family_size", "smallest_p_holm", "reachable"]
    corrected += ["detectable", "p_equivalence_holm", "verdict"]
    pd.testing.assert_frame_equal(
        against_baseline.drop(columns=corrected), everything.drop(columns=corrected)
    )
    assert (against_baseline["family_size"] == 7).all()
    assert against_baseline["reachable"].all()
    assert (against_baseline["p_holm"] <= everything["p_holm"]).all()


def test_bootstrap_follows_the_seed(study):
    tables = [stats.compare(study, seed=seed, resamples=500) for seed in (0, 0, 1)]
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert not tables[0]["boot_low"].equals(tables[2]["boot_low"])
    spread = tables[0]["boot_high"] - tables[0]["boot_low"]
    assert (tables[0]["boot_low"] - tables[2]["boot_low"]).abs().max() < 0.2 * spread.max()
    pd.testing.assert_series_equal(tables[0]["ci_low"], tables[2]["ci_low"])
