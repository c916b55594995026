"""Folds x seeds: a fold is the unit, whatever the number of seeds; rounding noise is a tie."""

import numpy as np
import pandas as pd
import pytest

from fp4jax.analysis import stats
from fp4jax.analysis.stats.rounding_noise import TOLERANCE

METRIC = "test_auprc"


def simulated(studies, folds, seeds, loss=0.0, of_folds=0.03, split="fold{}"):
    """Studies as architectures: what a recipe loses differs by fold, with the mean ``loss``."""
    generator = np.random.default_rng([studies, folds, seeds])
    shape = studies, folds, 1
    base = 0.78 + generator.normal(0, 0.07, shape)
    effect = generator.normal(loss, of_folds, shape)
    noise = generator.normal(0, 0.01, (2, studies, folds, seeds))
    values = np.stack([base + noise[0], base - effect + noise[1]])
    index = pd.MultiIndex.from_product(
        [["baseline", "full"], range(studies), map(split.format, range(folds)), range(seeds)],
        names=["label", "arch", "split", "seed"],
    )
    return pd.Series(values.ravel(), index, name=METRIC).reset_index().assign(scale="4m")


def near(rate, expected, studies, sigmas=3.5):
    return abs(rate - expected) <= sigmas * (expected * (1 - expected) / studies) ** 0.5


def covers(found, truth, name="ci"):
    return ((found[f"{name}_low"] <= truth) & (found[f"{name}_high"] >= truth)).mean()


@pytest.mark.parametrize("seeds", [1, 2, 10])
def test_null_studies_of_five_folds(seeds):
    """Whatever the number of seeds: p below 0.0625 cannot be, p at 0.0625 is in 1 of 16 studies,
    and intervals miss the truth in 1 of 20. (As independent pairs, ten seeds found a difference
    in half of all such studies.)"""
    studies = 400
    found = stats.compare(simulated(studies, 5, seeds), resamples=2)
    assert (found["n"] == 5).all()
    assert (found["unit"] == "fold").all()
    assert not (found["p_holm"] < 0.05).any()
    assert (found["smallest_p_holm"] == 0.0625).all()
    assert set(found["verdict"]) <= {"out of reach", "equivalent"}
    assert near((found["p"] <= 0.0625).mean(), 0.0625, studies)
    assert near(covers(found, 0), 0.95, studies)
    assert near(covers(found, 0, "d_z"), 0.95, studies)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 2, 10])
def test_null_studies_of_ten_folds_reject_at_their_nominal_rate(seeds):
    studies = 400
    found = stats.compare(simulated(studies, 10, seeds), resamples=2)
    # What 2**10 signs allow below 0.05.
    assert near((found["p_holm"] < 0.05).mean(), 50 / 1024, studies)
    assert near(covers(found, 0), 0.95, studies)
    differs = found["verdict"].str.startswith("differs")
    assert (differs == (found["p_holm"] < 0.05)).all()


@pytest.mark.slow
def test_what_is_different_by_the_margin_is_seldom_called_equivalent():
    studies = 400
    found = stats.compare(simulated(studies, 10, 2, loss=0.02, of_folds=0.005), resamples=2)
    assert near((found["p_equivalence"] < 0.05).mean(), 0.05, studies)
    same = stats.compare(simulated(50, 10, 2, of_folds=0.005), resamples=2)
    assert (same["verdict"].isin(["equivalent", "differs, within margin"])).mean() > 0.95
    wider = stats.compare(simulated(50, 10, 2, of_folds=0.005), resamples=2, margin=1e-4)
    assert not wider["verdict"].isin(["equivalent", "differs, within margin"]).any()


def test_the_papers_five_folds_decide_nothing():
    """Its test AUPRC at 4M, of the baseline and of 2D + RHT + SR."""
    values = {
        ("swin", "baseline"): [0.7038, 0.8509, 0.7241, 0.8880, 0.7956],
        ("swin", "2d+rht+sr"): [0.7671, 0.8347, 0.7055, 0.8855, 0.8047],
        ("cnn", "baseline"): [0.6973, 0.8293, 0.7211, 0.6855, 0.8013],
        ("cnn", "2d+rht+sr"): [0.5800, 0.7998, 0.7554, 0.6871, 0.8039],
    }
    rows = [
        {"arch": arch, "label": label, "split": f"fold{i}", METRIC: value}
        for (arch, label), of_folds in values.items()
        for i, value in enumerate(of_folds)
    ]
    found = stats.compare(pd.DataFrame(rows).assign(scale="4m", seed=2026))
    assert found["p"].tolist() == [1, 1]
    assert found["verdict"].tolist() == ["out of reach"] * 2
    assert found["smallest_p_holm"].tolist() == [0.0625] * 2
    assert found["difference"].tolist() == pytest.approx([-0.0070, 0.0217], abs=5e-5)
    assert (found["detectable"] > 0.05).all()


def test_a_true_effect_is_found_in_ten_folds():
    found = stats.compare(simulated(50, 10, 3, loss=0.06), resamples=2)
    assert (found["verdict"] == "differs").mean() > 0.9
    assert found["difference"].mean() == pytest.approx(0.06, rel=0.1)
    assert covers(found, 0.06) > 0.85


@pytest.mark.slow
def test_what_is_detectable_is_found_in_four_of_five_studies():
    studies = 400
    loss = stats.compare(simulated(studies, 10, 2), resamples=2)["detectable"].median()
    found = stats.compare(simulated(studies, 10, 2, loss=loss), resamples=2)
    excluded = (found["ci_low"] > 0) | (found["ci_high"] < 0)
    assert near(excluded.mean(), 0.8, studies, sigmas=4)


def test_units_are_named():
    one = stats.compare(simulated(1, 1, 4), resamples=2).iloc[0]
    assert (one["n"], one["unit"]) == (4, "seed")
    other = stats.compare(simulated(1, 3, 4, split="site{}"), resamples=2).iloc[0]
    assert (other["n"], other["unit"]) == (3, "split")
    table = simulated(1, 3, 4)
    assert stats.summary(table)["unit"].tolist() == ["fold", "fold"]
    assert stats.summary(table)["n"].tolist() == [3, 3]
    assert stats.kendall(table)[["n", "unit"]].to_numpy().tolist() == [[3, "fold"]]
    assert "with 3 pairs (a pair is a fold) Wilcoxon's" in stats.power_note(stats.compare(table))


def test_a_fold_and_its_mirror_image_are_one_unit():
    """Both were trained on the same patients."""
    table = simulated(1, 4, 2)
    mirrored = table.assign(
        split=table["split"].map(
            {"fold0": "fold0", "fold1": "fold0_swapped", "fold2": "fold1", "fold3": "fold1_swapped"}
        )
    )
    row = stats.compare(mirrored, resamples=2).iloc[0]
    assert (row["n"], row["unit"]) == (2, "fold")
    assert row["difference"] == pytest.approx(stats.compare(table)["difference"][0])
    one = mirrored[mirrored["split"].str.startswith("fold0")]
    assert stats.compare(one, resamples=2)[["n", "unit"]].to_numpy().tolist() == [[2, "seed"]]


@pytest.mark.parametrize("scale", [1.0, 100.0, 1e-3])
def test_rounding_noise_is_a_tie(scale):
    generator = np.random.default_rng(0)
    table = simulated(1, 10, 1, of_folds=0).assign(**{METRIC: 0.0})
    values = generator.uniform(0.5, 0.9, 10)
    noise = generator.uniform(-1, 1, 10) * 1e-7
    d = np.r_[np.zeros(6), [0.01, 0.02, 0.02, -0.01]]
    table.loc[table["label"] == "baseline", METRIC] = scale * values
    table.loc[table["label"] == "full", METRIC] = scale * (values + noise)
    row = stats.compare(table).iloc[0]
    assert (row["p"], row["statistic"], row["ties"], row["difference"]) == (1, 0, 10, 0)
    assert np.isnan(row["d_z"])
    assert row["verdict"] == "not shown"
    table.loc[table["label"] == "full", METRIC] = scale * (values + noise - d)
    row = stats.compare(table).iloc[0]
    assert row["ties"] == 6
    # Ranks 1.5 3.5 3.5 1.5, of which the last is negative; of 16 signs 4 are as far apart or more.
    assert row["statistic"] == 1.5
    assert row["p"] == 4 / 16 + 2 / 16
    assert row["difference"] == pytest.approx(scale * d.mean(), rel=1e-4)
    ranks = stats.kendall(table).iloc[0]["mean_ranks"]
    assert ranks == pytest.approx({"baseline": (6 * 1.5 + 3 + 2) / 10, "full": (6 * 1.5 + 7) / 10})
    assert TOLERANCE == 1e-6


def test_a_constant_difference_does_not_vary_by_noise():
    table = simulated(1, 6, 1)
    base = table.loc[table["label"] == "baseline", METRIC].to_numpy()
    table.loc[table["label"] == "full", METRIC] = base - 0.1
    row = stats.compare(table).iloc[0]
    assert row["difference"] == pytest.approx(0.1)
    assert np.isnan(row[["d_z", "p_equivalence"]].astype(float)).all()
    assert row["p"] == 2 / 2**6
    with pytest.raises(ValueError, match=r"margin is 0\.0; give a difference above 0"):
        stats.compare(table, margin=0.0)
