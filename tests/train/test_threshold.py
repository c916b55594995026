"""A threshold needs positives that are found somewhere; without, it is 0.5, and that is said."""

import jax.numpy as jnp
import numpy as np
import pytest

from fp4jax.metrics import Histogram, evaluate, from_histogram, threshold_sweep
from fp4jax.train.threshold import chosen_threshold

P = np.array([0.02, 0.3, 0.7, 0.9], np.float32)


@pytest.mark.parametrize(
    ("p", "mask", "chooses"),
    [
        (P, [0, 0, 1, 1], True),
        (P, [0, 0, 0, 0], False),
        # Below the lowest threshold.
        (P / 100, [0, 0, 1, 1], False),
    ],
    ids=["found", "no positives", "none found"],
)
def test_without_anything_to_choose_by_it_is_a_half(p, mask, chooses, caplog):
    sweep = threshold_sweep(p, np.array(mask))
    logits = jnp.log(p) - jnp.log1p(-p)
    of_counts = Histogram.zeros(256).add(logits[None], jnp.array(mask)[None])
    threshold = 0.3 if chooses else 0.5
    assert sweep.best_threshold == pytest.approx(threshold)
    assert from_histogram(of_counts)["best_threshold"] == pytest.approx(threshold)
    report = evaluate(p[None, None], np.array(mask)[None, None], kind="probabilities")
    assert report["best_threshold"] == pytest.approx(threshold)
    assert (report["best_f2_score"] > 0) == chooses
    assert chosen_threshold(sweep, "cnn_fold0") == pytest.approx(threshold)
    assert chosen_threshold(of_counts.sweep(), "cnn_fold0") == pytest.approx(threshold)
    messages = [record.message for record in caplog.records]
    assert bool(messages) != chooses
    assert all(m.startswith("cnn_fold0: its validation patients have no lesion") for m in messages)


def test_without_validation_patients_it_is_a_half(caplog):
    assert chosen_threshold(None, "cnn_fold0") == 0.5
    assert "masks and scores are at 0.5" in caplog.text
