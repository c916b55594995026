"""Rates of rejection, coverage of intervals and power in simulated studies."""

import numpy as np
import pandas as pd
import pytest

from fp4jax.analysis import stats
from fp4jax.ops.recipe import recipes

METRIC = "test_auprc"
PAPER = recipes()[1:8]


def simulated(studies, seeds, d_z=0.0, labels=PAPER, generator_seed=0):
    """Studies as architectures: seeds shift all labels, each label has noise of its own.

    A difference to the baseline has a standard deviation of 0.02, its mean is d_z times that.
    """
    generator = np.random.default_rng(generator_seed)
    noise = generator.normal(0, 0.02 / 2**0.5, (studies, len(labels) + 1, seeds))
    values = 0.8 + generator.normal(0, 0.03, (studies, 1, seeds)) + noise
    values[:, 1:] -= 0.02 * d_z
    index = pd.MultiIndex.from_product(
        [range(studies), ["baseline", *labels], range(seeds)], names=["arch", "label", "seed"]
    )
    table = pd.Series(values.ravel(), index=index, name=METRIC).reset_index()
    return table.assign(scale="4m", split="holdout")


def test_null_studies_reject_at_their_nominal_rate():
    studies, alpha = 200, 0.05
    found = stats.compare(simulated(studies, seeds=10), resamples=200)
    # P(W <= 8) of the exact distribution for n = 10: 2 * 25 / 1024 signs.
    attainable = 50 / 1024
    each = (found["p"] < alpha).groupby(found["arch"]).mean()
    # Comparisons share their baseline: the spread of a study's rate is taken from the studies.
    assert abs(each.mean() - attainable) < 3 * each.std() / studies**0.5
    any_holm = (found["p_holm"] < alpha).groupby(found["arch"]).any().mean()
    assert any_holm <= alpha + 3 * (alpha * (1 - alpha) / studies) ** 0.5
    assert any_holm > 0.005
    # Without correction most of the seven's rejections would be false alarms of a study.
    assert (found["p"] < alpha).groupby(found["arch"]).any().mean() > 0.15
    covered = ((found["ci_low"] <= 0) & (found["ci_high"] >= 0)).mean()
    assert abs(covered - 0.95) < 0.02
    # Percentile intervals of ten pairs are somewhat too narrow.
    covered = ((found["boot_low"] <= 0) & (found["boot_high"] >= 0)).mean()
    assert 0.86 < covered < 0.95
    covered = ((found["d_z_low"] <= 0) & (found["d_z_high"] >= 0)).mean()
    assert abs(covered - 0.95) < 0.02


def test_intervals_of_many_pairs_cover_the_effect():
    found = stats.compare(simulated(200, 40, d_z=0.5, labels=["full"]), resamples=400)
    truth = 0.5 * 0.02
    for name in ("ci", "boot"):
        covered = ((found[f"{name}_low"] <= truth) & (found[f"{name}_high"] >= truth)).mean()
        assert abs(covered - 0.95) < 0.05
    assert ((found["d_z_low"] <= 0.5) & (found["d_z_high"] >= 0.5)).mean() > 0.9
    assert found["difference"].mean() == pytest.approx(truth, rel=0.05)
    assert found["d_z"].mean() == pytest.approx(0.5, rel=0.1)


def test_an_effect_of_two_is_found_with_ten_seeds_but_not_among_all_pairs():
    table = simulated(30, seeds=10, d_z=2.0)
    against_baseline = stats.compare(table, resamples=10)
    assert (against_baseline["p_holm"] < 0.05).mean() > 0.97
    assert against_baseline["difference"].mean() == pytest.approx(0.04, rel=0.05)
    small = table[table["arch"] < 5]
    assert not (stats.compare(small, pairs="all", resamples=10)["p_holm"] < 0.05).any()
