"""Statistics against cases computed by hand, and what is refused."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.weightstats import ttost_paired

from fp4jax.analysis import stats
from tests.checks import diagonal

METRIC = "test_auprc"


def runs(values, arch="swin", scale="4m", split="holdout", metric=METRIC):
    """A table from {label: values by seed}; None where there is no run."""
    rows = [
        {"arch": arch, "scale": scale, "label": label, "split": split, "seed": seed, metric: value}
        for label, of_label in values.items()
        for seed, value in enumerate(of_label)
        if value is not None
    ]
    return pd.DataFrame(rows)


def test_per_cent_of_the_paired_baseline():
    table = pd.concat(
        [
            runs({"baseline": [0.8, 0.5, None], "full": [0.6, 0.4, 0.9]}),
            runs({"baseline": [0.4], "full": [0.5]}, split="fold0"),
            runs({"full": [0.5]}, arch="cnn"),
        ]
    )
    found = stats.relative(table).set_index(["label", "split", "seed"]).sort_index()
    # Seed 2 and the CNN have no baseline.
    assert len(found) == 6
    assert found.loc[("full", "holdout", 0), "percent"] == pytest.approx(75)
    assert found.loc[("full", "holdout", 1), "percent"] == pytest.approx(80)
    assert found.loc[("full", "fold0", 0), "percent"] == pytest.approx(125)
    assert (found.loc["baseline", "percent"] == 100).all()
    with pytest.raises(ValueError, match=r"no run has a 'baseline'.*the labels are: full"):
        stats.relative(runs({"full": [0.5]}))


def test_summary_of_few_runs():
    found = stats.summary(runs({"full": [0.5], "baseline": [0.2, 0.4, float("nan")]}))
    assert list(found["label"]) == ["baseline", "full"]
    assert list(found["n"]) == [2, 1]
    half = scipy_stats.t.ppf(0.975, 1) * 0.1
    assert found.loc[0, "ci_high"] == pytest.approx(0.3 + half)
    assert found.loc[1, ["sd", "ci_low", "ci_high"]].isna().all()


def test_a_comparison_by_hand():
    """d = 0.05, 0.04, -0.01, 0.03, 0.02: ranks 5, 4, 1, 3, 2, so W- = 1; p = 2 (1 + 1) / 2^5."""
    d = np.array([0.05, 0.04, -0.01, 0.03, 0.02])
    row = stats.compare(runs({"full": 0.5 - d, "baseline": [0.5] * 5})).iloc[0]
    assert (row["a"], row["b"], row["n"]) == ("baseline", "full", 5)
    assert row["difference"] == pytest.approx(0.026)
    assert row["difference"] == pytest.approx(row["mean_a"] - row["mean_b"])
    assert row["d_z"] == pytest.approx(0.026 / np.std(d, ddof=1))
    assert (row["statistic"], row["p"], row["p_holm"]) == (1, 0.125, 0.125)
    assert (row["smallest_p_holm"], row["reachable"]) == (0.0625, False)
    assert row["unit"] == "seed"
    assert row["ties"] == 0
    half = scipy_stats.t.ppf(0.975, 4) * np.std(d, ddof=1) / 5**0.5
    assert row["ci_low"] == pytest.approx(0.026 - half)
    assert row["ci_high"] == pytest.approx(0.026 + half)
    assert d.min() <= row["boot_low"] < 0.026 < row["boot_high"] <= d.max()
    low, high = row["d_z_low"] * 5**0.5, row["d_z_high"] * 5**0.5
    t = row["d_z"] * 5**0.5
    assert scipy_stats.nct.cdf(t, 4, [low, high]) == pytest.approx([0.975, 0.025], abs=1e-5)
    of_statsmodels = ttost_paired(np.full(5, 0.5), 0.5 - d, -0.02, 0.02)[0]
    assert row["p_equivalence"] == pytest.approx(of_statsmodels)
    assert row["verdict"] == "out of reach"
    assert bool(
        stats.compare(runs({"full": 0.5 - d, "baseline": [0.5] * 5}), alpha=0.1)["reachable"][0]
    )


def test_runs_are_paired_on_split_and_seed():
    """Seeds of a fold are averaged, of those that both labels have."""
    folds = [
        runs({"baseline": [0.8, 0.7, 0.6], "full": [0.7, None, 0.4]}, split="fold0"),
        runs({"baseline": [0.3, None, 0.2], "full": [0.6, 0.5, float("nan")]}, split="fold1"),
    ]
    row = stats.compare(pd.concat(folds)).iloc[0]
    assert row["n"] == 2
    assert row["difference"] == pytest.approx(((0.1 + 0.2) / 2 - 0.3) / 2)
    means = stats.summary(pd.concat(folds)).set_index("label")
    assert means.loc["baseline", "mean"] == pytest.approx((0.7 + 0.25) / 2)
    assert means.loc["baseline", "n"] == 2
    assert stats.kendall(pd.concat(folds)).loc[0, "n"] == 2
    with pytest.raises(
        ValueError, match=r"2 runs occur twice.*label baseline.*split fold0, seed 0"
    ):
        stats.compare(pd.concat([*folds, folds[0].iloc[:2]]))


def test_undefined_and_degenerate_comparisons():
    base = [0.5, 0.25, 0.75]
    values = {"baseline": base, "full": base, "sr": [0.5, None, None], "2d+rht": [None] * 3}
    values["chain_rule"] = [0.25, 0.0, 0.5]
    values["qad full"] = [None, None, None, 0.5]
    found = stats.compare(runs(values)).set_index("b")
    same = found.loc["full"]
    assert (same["p"], same["statistic"], same["difference"]) == (1, 0, 0)
    assert (same["ci_low"], same["ci_high"]) == (0, 0)
    assert np.isnan(same["d_z"])
    shifted = found.loc["chain_rule"]
    assert (shifted["difference"], shifted["ci_low"], shifted["ci_high"]) == (0.25,) * 3
    assert np.isnan(shifted["d_z"])
    for label, n in (("sr", 1), ("qad full", 0)):
        assert found.loc[label, "n"] == n
        empty = ["ci_low", "d_z", "statistic", "p", "p_holm", "smallest_p_holm"]
        assert found.loc[label, empty].isna().all()
        assert not found.loc[label, "reachable"]
    # The untested are not corrected for.
    assert (found["family_size"] == 2).all()
    assert found.loc["chain_rule", "smallest_p_holm"] == 0.5
    assert "2 comparisons have fewer than two pairs" in stats.power_note(found)


def test_nothing_to_compare():
    alone = runs({"baseline": [0.5, 0.6]})
    found = stats.compare(alone)
    assert found.empty
    assert {"a", "b", "p_holm", "reachable"} <= set(found.columns)
    assert stats.power_note(found) == "There is nothing to compare."
    with pytest.raises(ValueError, match="'baseline' to be compared with; the labels are: full"):
        stats.compare(runs({"full": [0.5]}))
    # One of two groups has a baseline.
    both = pd.concat([runs({"baseline": [0.5], "full": [0.4]}), runs({"full": [0.5]}, arch="cnn")])
    assert list(stats.compare(both)["arch"]) == ["swin"]


def test_smallest_p_of_unequal_pairs_is_sharp():
    """With all differences of one sign p_holm is exactly what it cannot fall below."""
    generator = np.random.default_rng(0)
    values = {"baseline": [0.9] * 12}
    for label, n in (("full", 12), ("sr", 9), ("chain_rule", 5)):
        values[label] = [0.8 - 0.1 * x for x in generator.random(n)]
    found = stats.compare(runs(values)).set_index("b")
    np.testing.assert_allclose(found["p_holm"], found["smallest_p_holm"])
    # 3 * 2^-11, 2 * 2^-8, 2^-4
    assert found["smallest_p_holm"].to_dict() == pytest.approx(
        {"full": 3 / 2**11, "chain_rule": 1 / 2**4, "sr": 2 / 2**8}
    )
    note = stats.power_note(found.reset_index())
    assert "1 of 3 comparisons cannot reach p < 0.05: with 5 pairs" in note
    assert "1 of 3 comparisons can reach p < 0.05: with 12 pairs" in note


@pytest.mark.parametrize(("comparisons", "alpha"), diagonal([1, 2, 7, 28, 112], [0.05, 0.01]))
def test_pairs_needed_is_the_smallest_number(comparisons, alpha):
    n = stats.pairs_needed(comparisons, alpha)
    labels = [f"x{i:03}" for i in range(comparisons)]
    for pairs, reachable in ((n - 1, False), (n, True)):
        values = {label: np.arange(pairs) / 100 for label in ["baseline", *labels]}
        found = stats.compare(runs(values), resamples=2, alpha=alpha)
        assert found["reachable"].all() == found["reachable"].any() == reachable
        note = stats.power_note(found, alpha)
        word = "Every" if reachable else "No"
        assert note.startswith(f"{word} comparison can reach p < {alpha}: with {pairs} pairs")
        assert note.endswith(f"It takes {n} pairs.")


def test_concordance_by_hand_and_from_friedmans_test():
    found = stats.kendall(runs({"full": [1, 1, 3], "sr": [2, 3, 2], "baseline": [3, 2, 1]})).iloc[0]
    # Ranks of baseline 1 2 3, full 3 3 1, sr 2 1 2: sums 6 7 5, SS = 2; W = 24 / (9 * 24).
    assert found["w"] == pytest.approx(24 / (9 * 24))
    assert found["mean_ranks"] == pytest.approx({"baseline": 2, "full": 7 / 3, "sr": 5 / 3})
    assert found["verdict"] == "weak"
    generator = np.random.default_rng(0)
    values = generator.normal(0, 1, (5, 12)) + np.arange(5)[:, None]
    found = stats.kendall(runs({f"x{i}": v for i, v in enumerate(values)})).iloc[0]
    chi2 = scipy_stats.friedmanchisquare(*values).statistic
    assert found["w"] == pytest.approx(chi2 / (12 * 4))
    low = stats.kendall(runs({f"x{i}": v for i, v in enumerate(values)}), lower_is_better=True)
    assert low.loc[0, "w"] == pytest.approx(found["w"])
    assert low.loc[0, "mean_ranks"]["x0"] == pytest.approx(6 - found["mean_ranks"]["x0"])


def test_concordance_leaves_incomplete_blocks_out():
    table = pd.concat(
        [
            runs({"baseline": [3, 2, 3], "full": [1, 1, None], "sr": [2, 2, 2]}),
            runs({"baseline": [0.5, 0.6], "full": [0.7, None]}, arch="cnn"),
        ]
    )
    swin, cnn = stats.kendall(table).to_dict("records")
    assert (swin["n"], swin["left_out"], swin["labels"]) == (2, 1, 3)
    # A tie: ranks 1.5 3 1.5 and 1 3 2; sums 2.5 6 3.5, SS = 6.5.
    assert swin["w"] == pytest.approx(12 * 6.5 / (4 * 24))
    assert swin["verdict"] == "strong"
    assert (cnn["n"], cnn["left_out"], cnn["verdict"]) == (1, 1, "undefined")
    assert np.isnan(cnn["w"])


@pytest.mark.parametrize(
    "function",
    [stats.summary, stats.relative, stats.compare, stats.kendall],
    ids=lambda f: f.__name__,
)
def test_mistakes_are_named(function):
    table = runs({"baseline": [0.5, 0.6], "full": [0.4, 0.5]})
    with pytest.raises(ValueError, match="no column 'test_dice'; it has arch, scale, label"):
        function(table, "test_dice")
    with pytest.raises(ValueError, match="no column 'split'"):
        function(table.drop(columns="split"))
    with pytest.raises(ValueError, match="1 runs occur twice, the first: arch swin, scale 4m"):
        function(pd.concat([table, table.iloc[:1]]))
    with pytest.raises(ValueError, match="not defined in any row"):
        function(table.assign(test_auprc=float("nan")))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pairs": "some"}, "pairs is 'some'; allowed: baseline, all"),
        ({"family": "arch"}, "family is 'arch'; allowed: group, all"),
        ({"resamples": 0}, "resamples is 0"),
        ({"alpha": 5.0}, "alpha is 5.0"),
    ],
)
def test_options_of_a_comparison(options, says):
    with pytest.raises(ValueError, match=says):
        stats.compare(runs({"baseline": [0.5, 0.6], "full": [0.4, 0.5]}), **options)


def test_options_of_power():
    with pytest.raises(ValueError, match="comparisons is 0"):
        stats.pairs_needed(0)
    with pytest.raises(ValueError, match="alpha is 1"):
        stats.pairs_needed(7, 1.0)
