"""The hierarchical bootstrap: against histograms added by hand, and what its intervals cover."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from fp4jax.analysis.stats import patient_bootstrap, patient_bootstrap_difference
from fp4jax.metrics import Histogram

BINS = 64
INTERVALS = Histogram.zeros(BINS).counts.shape[-1]


def histogram(negative, positive):
    """Of logits between -16 and 16; the places of intervals do not matter here."""
    edges = np.linspace(-16, 16, INTERVALS + 1)
    counts = [np.histogram(logits, edges)[0] for logits in (negative, positive)]
    return Histogram(jnp.asarray(np.array(counts), jnp.uint32), jnp.uint32(0))


def patient(generator, quality, pixels=300):
    return histogram(generator.normal(-2, 2, pixels), generator.normal(quality, 2, pixels // 10))


def auprc(*histograms):
    return functools.reduce(Histogram.merge, histograms).average_precision().value


def draw_run(generator, names="abcdef"):
    return {name: patient(generator, generator.normal(1, 1)) for name in names}


def test_estimate_is_the_mean_over_seeds_then_over_splits():
    generator = np.random.default_rng(0)
    scores = [draw_run(generator) for _ in range(3)]
    scores.append(draw_run(generator, "xyz"))
    found = patient_bootstrap(scores, resamples=400)
    *seeds, other = [auprc(*run.values()) for run in scores]
    assert found.estimate == pytest.approx((np.mean(seeds) + other) / 2)
    assert found.ci_low < found.estimate < found.ci_high
    # The order in which a run names its patients does not matter.
    turned = [dict(reversed(run.items())) for run in scores]
    assert patient_bootstrap(turned, resamples=400) == found
    assert patient_bootstrap(scores, resamples=400, seed=1) != found


def test_all_draws_of_two_patients():
    """Twice a, a and b, twice b: more than 2.5 % of the draws each."""
    generator = np.random.default_rng(1)
    a, b = patient(generator, 0), patient(generator, 3)
    low, high = sorted([auprc(a, a), auprc(b, b)])
    assert low < auprc(a, b) < high
    found = patient_bootstrap([{"a": a, "b": b}])
    assert found == pytest.approx((auprc(a, b), low, high), rel=1e-12)
    # With other patients in the other run, all draws of both, and of runs.
    found = patient_bootstrap([{"a": a}, {"b": b}])
    single = sorted([auprc(a), auprc(b)])
    assert found == pytest.approx((np.mean(single), *single), rel=1e-12)


def test_runs_of_the_same_patients_share_their_draw():
    generator = np.random.default_rng(2)
    run = draw_run(generator)
    one, many = patient_bootstrap([run]), patient_bootstrap([run] * 8)
    # Seven more seeds with the same scores say nothing about other patients.
    assert many.ci_high - many.ci_low == pytest.approx(one.ci_high - one.ci_low, rel=0.15)
    others = [{f"{name}{i}": h for name, h in run.items()} for i in range(8)]
    apart = patient_bootstrap(others)
    assert apart.ci_high - apart.ci_low < 0.6 * (one.ci_high - one.ci_low)


def test_difference_draws_the_same_for_both():
    generator = np.random.default_rng(3)
    qualities = generator.normal(1, 2, 8)

    def label(loss):
        return [
            {str(i): patient(generator, q - loss, 3000) for i, q in enumerate(qualities)}
            for _ in range(4)
        ]

    a, b = label(0.0), label(0.5)
    found = patient_bootstrap_difference(a, b)
    alone = patient_bootstrap(a), patient_bootstrap(b)
    assert found.estimate == pytest.approx(alone[0].estimate - alone[1].estimate, rel=1e-12)
    assert found.ci_low > 0
    assert found.ci_high - found.ci_low < 0.5 * (alone[0].ci_high - alone[0].ci_low)
    turned = patient_bootstrap_difference(b, a)
    np.testing.assert_allclose(turned, (-found.estimate, -found.ci_high, -found.ci_low), rtol=1e-9)
    assert patient_bootstrap_difference(a, a) == (0, 0, 0)


def test_interval_covers_other_patients_where_seeds_alone_do_not():
    generator = np.random.default_rng(4)
    found, by_seeds = [], []
    for _ in range(60):
        # Patients differ in how hard they are, in all runs alike; runs differ little.
        qualities = generator.normal(1, 1, 11)
        scores = [
            {str(i): patient(generator, q + shift, 100) for i, q in enumerate(qualities)}
            for shift in generator.normal(0, 0.1, 5)
        ]
        found.append(patient_bootstrap(scores, resamples=300))
        values = [auprc(*run.values()) for run in scores]
        by_seeds.append((np.mean(values), 2.776 * np.std(values, ddof=1) / 5**0.5))
    truth = np.mean([interval.estimate for interval in found])
    covered = np.mean([low <= truth <= high for _, low, high in found])
    assert covered > 0.83
    assert np.mean([abs(mean - truth) <= half for mean, half in by_seeds]) < covered - 0.2


def test_patients_without_a_lesion():
    generator = np.random.default_rng(5)
    healthy = histogram(generator.normal(-2, 2, 100), [])
    ill = patient(generator, 1)
    found = patient_bootstrap([{"a": healthy, "b": ill}])
    assert found.estimate == pytest.approx(auprc(healthy, ill))
    # Draws of a alone are undefined and left out.
    ends = sorted([auprc(healthy, ill), auprc(ill, ill)])
    assert found[1:] == pytest.approx(ends)
    assert np.isnan(patient_bootstrap([{"a": healthy}])).all()
    assert np.isnan(patient_bootstrap([{"a": healthy}, {"b": ill}])).all()


def test_mistakes_are_named():
    generator = np.random.default_rng(6)
    run = draw_run(generator, "ab")
    broken = {"a": Histogram(run["a"].counts, jnp.uint32(1)), "b": run["b"]}
    bins = {"a": run["a"], "b": Histogram.zeros(128)}
    for scores, says in (
        ([], "there is no run"),
        ([run, {}], "run 1 has no patients"),
        ([run, broken], "run 1 has NaN among the scores of a: it has diverged"),
        ([bins], "run 0 has histograms of unequal bins"),
    ):
        with pytest.raises(ValueError, match=says):
            patient_bootstrap(scores)
    with pytest.raises(ValueError, match="resamples is 0"):
        patient_bootstrap([run], resamples=0)
    for other in ([run, run], [draw_run(generator, "bc")]):
        with pytest.raises(ValueError, match="do not test the same patients"):
            patient_bootstrap_difference([run], other)
