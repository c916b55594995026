"""Comparisons over patients: each counts once, and their folds are allowed for."""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from fp4jax.analysis.by_patient import METRICS, patient_table, pixel_scores
from fp4jax.analysis.results import read_runs
from fp4jax.analysis.stats import compare_patients
from fp4jax.analysis.stats.nested import nested_mean
from fp4jax.metrics import Histogram
from tests import fabricated_runs as fabricated

KEYS = ["arch", "scale", "label", "split", "seed", "patient"]


def simulated(studies, loss=0.0, of_folds=0.0, folds=5, patients=11, seeds=2, generator_seed=0):
    """Studies as architectures. What a recipe loses differs by fold, by seed, and by patient."""
    generator = np.random.default_rng(generator_seed)
    shape = studies, folds, seeds, patients
    base = generator.normal(0.7, 0.1, (studies, folds, 1, patients))
    effect = generator.normal(loss, of_folds, (studies, folds, 1, 1))
    effect = effect + generator.normal(0, of_folds / 3, (studies, folds, seeds, 1))
    effect = effect + generator.normal(0, 0.06, (studies, folds, 1, patients))
    noise = generator.normal(0, 0.03, (2, *shape))
    values = np.stack([base + noise[0], base - effect + noise[1]])
    index = pd.MultiIndex.from_product(
        [["baseline", "full"], *map(range, shape)],
        names=["label", "arch", "split", "seed", "patient"],
    )
    table = pd.Series(values.ravel(), index, name="auprc").reset_index().assign(scale="4m")
    fold = table["split"].map("fold{}".format)
    return table.assign(split=fold, patient=fold + "_" + table["patient"].astype(str))


def of(rows):
    """A table of (label, split, seed, patient, value)."""
    return pd.DataFrame([("swin", "4m", *row) for row in rows], columns=[*KEYS, "auprc"])


def near(rate, expected, studies, sigmas=3.5):
    return abs(rate - expected) <= sigmas * (expected * (1 - expected) / studies) ** 0.5


def test_a_cross_validation_by_hand():
    """Six patients in three folds; seeds are averaged, of those that both labels have."""
    rows = []
    for place, d in enumerate([0.06, 0.05, 0.04, 0.03, 0.02, -0.01]):
        keys = f"fold{place % 3}", f"p{place}"
        for seed, noise in ((1, 0.004), (2, -0.004)):
            rows.append(("baseline", keys[0], seed, keys[1], 0.8 + noise))
            rows.append(("full", keys[0], seed, keys[1], 0.8 - d - noise))
    rows.append(("baseline", "fold0", 3, "p0", 0.1))
    row = compare_patients(of(rows)).iloc[0]
    d = np.array([0.06, 0.05, 0.04, 0.03, 0.02, -0.01])
    assert row[["a", "b", "n", "unit", "folds", "seeds"]].tolist() == [
        *("baseline", "full", 6, "patient", 3, 2)
    ]
    assert row["mean_a"] == pytest.approx(0.8)
    assert row["difference"] == pytest.approx(d.mean())
    assert row["d_z"] == pytest.approx(d.mean() / d.std(ddof=1))
    assert (row["statistic"], row["p"]) == scipy_stats.wilcoxon(d)
    folds = nested_mean(d, np.arange(6) % 3)
    assert row["p_folds"] == pytest.approx(folds.p())
    assert row[["error", "freedom"]].tolist() == pytest.approx([folds.error, folds.freedom])
    assert row["p_equivalence"] == pytest.approx(folds.p_equivalence(0.02))
    assert row["ci_low"] < row["difference"] < row["ci_high"]
    assert row["smallest_p_holm"] == 2 / 2**6


def test_a_patient_of_several_test_sets_counts_once():
    """Ten holdouts that test the same patient are one patient, and no patient is a fold."""
    generator = np.random.default_rng(0)
    rows = []
    for split in range(10):
        for patient in ("often", f"p{split}", f"p{(split + 1) % 10}"):
            value = generator.uniform(0.5, 0.9)
            loss = 0.3 if patient == "often" else 0.01 + 0.001 * int(patient[1:])
            rows.append(("baseline", f"holdout@{split}", 0, patient, value))
            rows.append(("full", f"holdout@{split}", 0, patient, value - loss))
    row = compare_patients(of(rows)).iloc[0]
    assert (row["n"], row["folds"]) == (11, 10)
    assert row["difference"] == pytest.approx((0.3 + sum(0.01 + 0.001 * i for i in range(10))) / 11)
    assert row["ci_low"] < row["difference"] < row["ci_high"] < 0.15
    assert row["p"] == 2 / 2**11
    # Training sets are not told apart by patients.
    assert np.isnan(row["p_folds"])
    assert row["verdict"] == "differs here"


def test_the_halves_of_a_fold_share_their_networks():
    table = simulated(1, folds=4, patients=6)
    swapped = {"fold1": "fold0_swapped", "fold3": "fold2_swapped"}
    row = compare_patients(table.assign(split=table["split"].replace(swapped))).iloc[0]
    whole = {"fold1": "fold0", "fold3": "fold2"}
    same = compare_patients(table.assign(split=table["split"].replace(whole))).iloc[0]
    assert (row["n"], row["folds"]) == (24, 2)
    pd.testing.assert_series_equal(row, same)


def test_one_split_says_nothing_of_other_training_sets():
    row = compare_patients(simulated(1, loss=0.1, folds=1, patients=20)).iloc[0]
    assert row["p_holm"] < 0.05
    assert np.isnan(row["p_folds"])
    assert row["verdict"] == "differs here"
    same = compare_patients(simulated(1, folds=1, patients=60)).iloc[0]
    assert same["p_equivalence"] < 1
    alone = compare_patients(simulated(1, folds=1, patients=1)).iloc[0]
    assert (alone["n"], alone["verdict"]) == (1, "not tested")
    assert np.isnan(alone[["ci_low", "p", "p_folds", "p_equivalence"]].astype(float)).all()


def test_null_studies_without_effects_of_folds():
    studies = 250
    found = compare_patients(simulated(studies), resamples=100)
    assert (found["n"] == 55).all()
    assert near((found["p"] < 0.05).mean(), 0.05, studies)
    assert (found["p_folds"] < 0.05).mean() < 0.08
    covered = ((found["ci_low"] <= 0) & (found["ci_high"] >= 0)).mean()
    assert covered > 0.94
    assert (found["verdict"].str.startswith("differs")).mean() < 0.08


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 4])
def test_null_studies_whose_folds_differ(seeds):
    """Networks of a fold do differ on its patients, and Wilcoxon's test says so; but a label that
    gains in some folds what it loses in others is not said to differ, with any number of seeds."""
    studies = 250
    table = simulated(studies, of_folds=0.03, seeds=seeds, generator_seed=1)
    found = compare_patients(table, resamples=100)
    assert (found["p"] < 0.05).mean() > 0.12
    assert near((found["p_folds"] < 0.05).mean(), 0.05, studies)
    plain = found["verdict"].isin(["differs", "differs, within margin"]).mean()
    assert plain < 0.05 + 3.5 * (0.05 * 0.95 / studies) ** 0.5
    covered = ((found["ci_low"] <= 0) & (found["ci_high"] >= 0)).mean()
    assert covered > 0.88


def test_a_true_effect_is_found_where_five_folds_cannot():
    found = compare_patients(simulated(60, loss=0.05, of_folds=0.005), resamples=100)
    assert (found["p_holm"] < 0.05).mean() > 0.95
    assert (found["verdict"] == "differs").mean() > 0.85
    assert found["difference"].mean() == pytest.approx(0.05, rel=0.1)
    assert found["reachable"].all()


@pytest.mark.slow
def test_equivalence_is_shown_of_many_patients():
    found = compare_patients(simulated(40, patients=44, loss=0.0), resamples=10)
    assert (found["verdict"].isin(["equivalent", "differs, within margin"])).mean() > 0.8
    far = compare_patients(simulated(200, patients=22, loss=0.02), resamples=10)
    assert (far["p_equivalence"] < 0.05).mean() < 0.1


def test_the_mixed_model_of_folds():
    """Of folds of equal size it is Student's test of their means, where these differ at all."""
    generator = np.random.default_rng(0)
    folds = np.repeat(np.arange(5), 8)
    d = generator.normal(0.1, 0.1, 5)[folds] + generator.normal(0, 0.02, 40)
    found, means = nested_mean(d, folds), d.reshape(5, 8).mean(1)
    assert found.value == pytest.approx(d.mean())
    assert found.error == pytest.approx(means.std(ddof=1) / 5**0.5)
    assert found.freedom == pytest.approx(4)
    assert found.p() == pytest.approx(scipy_stats.ttest_1samp(means, 0).pvalue)
    # Folds that differ less than their patients make them.
    alike = np.tile([0.1, 0.2, 0.3], 3)
    found = nested_mean(alike, np.repeat(np.arange(3), 3))
    assert found.error == pytest.approx(alike.std(ddof=1) / 3)
    assert found.freedom == 8
    # A patient in each.
    found = nested_mean(means, np.arange(5))
    assert found.freedom == 4
    assert np.isnan(nested_mean(d, np.zeros(40)).error)


@pytest.mark.parametrize("of_folds", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("sizes", [(11, 11, 11, 11, 11), (2, 5, 9, 14, 20)])
def test_the_mixed_model_keeps_its_level(of_folds, sizes):
    generator = np.random.default_rng(1)
    folds = np.repeat(np.arange(len(sizes)), sizes)
    p = []
    for _ in range(1000):
        effects = generator.normal(0, of_folds, len(sizes))[folds]
        p.append(nested_mean(effects + generator.normal(0, 1, len(folds)), folds).p())
    assert 0.015 < np.mean(np.array(p) < 0.05) < 0.075


def test_mistakes_are_named():
    table = simulated(1)
    with pytest.raises(ValueError, match=r"no column 'patient'.*by_patient\.patient_table\(runs\)"):
        compare_patients(table.drop(columns="patient"))
    with pytest.raises(ValueError, match=r"1 runs occur twice.*patient fold0_0"):
        compare_patients(pd.concat([table, table.iloc[:1]]))
    with pytest.raises(ValueError, match="no run has the label 'baseline'"):
        compare_patients(table[table["label"] == "full"])
    with pytest.raises(ValueError, match="resamples is 0"):
        compare_patients(table, resamples=0)


def test_scores_of_a_patient():
    logits = jnp.array([[4.0, 2.0, 0.5, -1.0, -2.0, -3.0]])
    mask = jnp.array([[1, 0, 1, 0, 1, 0]])
    found = pixel_scores(Histogram.zeros(4096).add(logits, mask), 0.5)
    assert found["lesion"]
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["precision"] == pytest.approx(2 / 3)
    assert found["f2"] == pytest.approx(5 * 2 / (5 * 2 + 4 * 1 + 1))
    assert found["auprc"] == pytest.approx((1 + 2 / 3 + 3 / 5) / 3, abs=2e-3)
    assert found["missed"] == 0
    # Above 0.95 there is one pixel of the lesion, and above 0.05 all but one.
    assert pixel_scores(Histogram.zeros(4096).add(logits, 1 - mask), 0.95)["missed"] == 1
    healthy = pixel_scores(Histogram.zeros(4096).add(logits, 0 * mask), 0.5)
    assert (healthy.pop("lesion"), healthy.pop("pixels")) == (False, 0)
    assert np.isnan(list(healthy.values())).all()
    silent = pixel_scores(Histogram.zeros(4096).add(-9 * jnp.ones((1, 6)), mask), 0.5)
    assert (silent["f2"], silent["recall"], silent["missed"]) == (0, 0, 1)
    assert np.isnan(silent["precision"])


def test_the_table_of_patients(tmp_path):
    root = fabricated.study(
        tmp_path, archs=("cnn",), labels=("baseline", "full"), splits=("fold0",), seeds=(1, 2)
    )
    runs = read_runs(root)
    table = patient_table(runs)
    assert len(table) == 4 * 3
    assert list(table.columns) == ["run", *KEYS, "lesion", "pixels", *METRICS]
    assert set(table["split"]) == {"fold0"}
    dice = {(r.path.name, p): d for r in runs for p, d in r.summary["test_patients"].items()}
    for row in table.to_dict("records"):
        assert row["dice"] == pytest.approx(dice[row["run"], row["patient"]])
        assert 0 < row["auprc"] <= 1
        both, either = row["precision"] * row["recall"], row["precision"] + row["recall"]
        # A patient's two slices are its volume.
        assert row["dice"] == pytest.approx(2 * both / either, abs=2e-3)
    assert compare_patients(table)["n"].tolist() == [3]
    # Other splits of one name are told apart; runs that kept nothing have no rows.
    fabricated.run(tmp_path / "more", fabricated.cohort(), arch="cnn", split_seed=7)
    other = read_runs(tmp_path / "more")
    assert set(patient_table([*runs, *other])["split"]) == {"fold0", "holdout@7"}
    (other[0].path / "test_scores.npz").unlink()
    assert patient_table(other).empty
