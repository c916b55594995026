"""Variances are those planted, without what sampling adds."""

from typing import Any

import numpy as np
import pytest

from fp4jax.analysis.claims import variance
from fp4jax.analysis.claims.variance import variances
from tests.fabricated_scores import study, without


def by_source(whole, resamples=500) -> Any:
    return variances(whole.scores, "auprc", 5, resamples).set_index("source")


def test_planted_sources_are_found():
    """Network 0.005, patient 0.12, patient in an architecture 0.05, residual 0.03."""
    gaps = {"vit": 0.1, "swin": 0.2}
    loss = {(arch, "full"): 0.1 for arch in ("cnn", "vit", "swin")}
    found = by_source(study(4, gaps=gaps, loss=loss, patients=30))
    assert found["variance"]["architecture"] == pytest.approx(0.01, rel=0.2)
    assert found["variance"]["recipe"] == pytest.approx(0.0025, rel=0.2)
    assert found["variance"]["patient"] == pytest.approx(0.12**2, rel=0.2)
    assert found["variance"]["patient x architecture"] == pytest.approx(0.05**2, rel=0.2)
    assert found["variance"]["residual"] == pytest.approx(0.03**2, rel=0.1)
    assert found["variance"]["network"] == pytest.approx(0.005**2, abs=3e-5)
    assert found["share"].sum() == pytest.approx(1)
    assert found["converged"].all()
    for name, value in (("architecture", 0.01), ("recipe", 0.0025)):
        assert found["low"][name] < value < found["high"][name]


def test_what_sampling_adds_is_taken_away(monkeypatch):
    """Without any effect estimates are about 0 on both sides; the plain ones would be above."""
    monkeypatch.setattr(variance, "_random", lambda design: ({"residual": 1.0}, True))
    recipes = np.array(
        [
            [found["variance"]["recipe"], found["low"]["recipe"], found["high"]["recipe"]]
            for seed in range(20)
            for found in [by_source(study(seed, archs=("cnn", "swin")), 100)]
        ]
    )
    assert abs(recipes[:, 0].mean()) < 2 * recipes[:, 0].std() / 20**0.5 + 2e-6
    assert (recipes[:, 0] < 0).any()
    assert np.mean((recipes[:, 1] <= 0) & (recipes[:, 2] >= 0)) > 0.8


def test_what_does_not_allow_it_is_left_out():
    whole = study(archs=("cnn", "swin"))
    assert by_source(without(whole, arch="cnn")).empty
    one = without(whole, recipe="full", split="fold1", arch="cnn")
    assert set(by_source(one, 100)["labels"]) == {"baseline, forward_only, 2d+rht+sr"}


@pytest.mark.parametrize("value", [0.0, 0.7])
def test_where_nothing_varies_no_source_has_a_share(value):
    whole = study(archs=("cnn", "swin"), patients=3)
    whole.patients["auprc"] = value
    found = by_source(whole, 20)
    assert found["variance"].abs().max() < 1e-12
    assert found["share"].isna().all()
    # Between architectures alone.
    whole.patients.loc[whole.patients["arch"] == "cnn", "auprc"] = value + 0.1
    found = by_source(whole, 20)
    assert found["share"]["architecture"] == pytest.approx(1)
