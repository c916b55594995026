"""Distillation from a baseline (qad), and baseline weights that are quantized afterwards (ptq)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fp4jax import losses
from fp4jax.train import evaluate_folder, train
from fp4jax.train.program import Program
from fp4jax.train.state import Batch, Teacher
from tests import blobs


@pytest.fixture(scope="module")
def cohort():
    return blobs.cohort()


def test_methods_share_a_baseline(cohort, tmp_path):
    base = blobs.config(recipe="full", epochs=2)
    (ptq,) = train(dataclasses.replace(base, method="ptq"), cohort, tmp_path)
    (qad,) = train(dataclasses.replace(base, method="qad", distill_ratio=0.4), cohort, tmp_path)
    names = sorted(path.name.split("_blobs")[0] for path in tmp_path.iterdir())
    assert names == ["cnn_500k_baseline", "cnn_500k_ptq-full", "cnn_500k_qad-full"]
    (baseline,) = train(base.teacher(), cohort, tmp_path)
    ptq, qad, baseline = (
        folder.summary() | {"path": folder.path} for folder in (ptq, qad, baseline)
    )
    assert ptq["train_seconds"] == 0
    assert ptq["best_epoch"] == baseline["best_epoch"]
    # Quantized, it is another network than the baseline, and not a worthless one.
    assert 0 < abs(ptq["test"]["auprc"] - baseline["test"]["auprc"]) < 0.3
    # A folder of its own: evaluated again, it says the same.
    again = evaluate_folder(ptq["path"], cohort)
    assert again["auprc"] == ptq["test"]["auprc"]
    assert qad["test"]["auprc"] != ptq["test"]["auprc"]


def test_distillation_is_in_the_loss(cohort):
    config = blobs.config(recipe="full", method="qad", augment=False)
    program = Program(config, 3, steps=1)
    state = program.start(jnp.uint32(1))
    other = program.start(jnp.uint32(2))
    images, masks = jnp.asarray(cohort.images[:8]), jnp.asarray(cohort.masks[:8])
    batch = Batch(images, masks, jnp.arange(8, dtype=jnp.int32), jnp.int32(1))
    weight = 0.75
    teacher = Teacher(other.params, other.stats, jnp.float32(weight))
    _, values = jax.jit(program.train_step)(state, batch, teacher)
    task = sum(float(values[name]) for name in ("bce", "tversky"))
    kl = float(values["divergence"])
    assert kl > 0
    np.testing.assert_allclose(values["loss"], task + weight * 4 * kl, rtol=1e-6)
    # Its own teacher: the only divergence left is that of recipe, dropout and batch statistics.
    evaluated = program.divergence(state.params, state.stats, images, masks, teacher)
    itself = dataclasses.replace(teacher, params=state.params, stats=state.stats)
    same = program.divergence(state.params, state.stats, images, masks, itself)
    assert float(same[1]) < 0.1 * float(evaluated[1])


def test_calibrated_weight_gives_the_ratio(cohort, tmp_path, monkeypatch):
    seen = []
    original = losses.distillation_weight
    monkeypatch.setattr(
        losses, "distillation_weight", lambda *a: seen.append((a, original(*a))) or seen[-1][1]
    )
    config = blobs.config(recipe="full", method="qad", epochs=1, distill_ratio=0.2)
    train(config, cohort, tmp_path)
    ((ratio, task, divergence, temperature), weight) = seen[0]
    share = weight * temperature**2 * divergence
    assert ratio == 0.2
    assert np.isclose(share / (share + task), 0.2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "ptq", "recipe": "baseline"}, "name another recipe"),
        ({"distill_weight": -1.0}, "must not be negative"),
        ({"distill_ratio": 1.0}, "share of the loss"),
        ({"temperature": 0.0}, "must be positive"),
    ],
)
def test_wrong_options(changes, message):
    with pytest.raises(ValueError, match=message):
        blobs.config(**changes)
