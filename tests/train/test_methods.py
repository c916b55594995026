"""Distillation from a baseline (qad), and baseline weights that are quantized afterwards (ptq)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fp4jax import losses
from fp4jax.train import Batch, DivergedError, Program, RunFolder, evaluate_folder, train
from fp4jax.train.state import Teacher
from tests import blobs
from tests.train import outcome
from tests.train.test_train_lanes import diverge

COHORT = blobs.cohort()
BASE = blobs.config(recipe="full", epochs=2)
QAD = dataclasses.replace(BASE, method="qad", distill_ratio=0.4)


def test_methods_share_a_baseline(tmp_path):
    (ptq,) = train(dataclasses.replace(BASE, method="ptq"), COHORT, tmp_path)
    (qad,) = train(QAD, COHORT, tmp_path)
    names = sorted(path.name.split("_blobs")[0] for path in tmp_path.iterdir())
    assert names == ["cnn_500k_baseline", "cnn_500k_ptq-full", "cnn_500k_qad-full"]
    (baseline,) = train(BASE.teacher(), COHORT, tmp_path)
    ptq, qad, baseline = (
        folder.summary() | {"path": folder.path} for folder in (ptq, qad, baseline)
    )
    assert ptq["train_seconds"] == 0
    assert ptq["best_epoch"] == baseline["best_epoch"]
    # Quantized, it is another network than the baseline, and not a worthless one.
    assert 0 < abs(ptq["test"]["auprc"] - baseline["test"]["auprc"]) < 0.3
    # A folder of its own: evaluated again, it says the same.
    again = evaluate_folder(ptq["path"], COHORT)
    assert again["auprc"] == ptq["test"]["auprc"]
    assert qad["test"]["auprc"] != ptq["test"]["auprc"]


def test_distillation_is_in_the_loss():
    config = blobs.config(recipe="full", method="qad")
    program = Program(config, 3)
    state, other = program.start(1), program.start(2)
    images, masks = jnp.asarray(COHORT.images[:8]), jnp.asarray(COHORT.masks[:8])
    index = jnp.arange(8, dtype=jnp.int32)
    batch = Batch(images, masks, index, jnp.int32(1), jnp.float32(1e-3))
    weight = 0.75
    teacher = Teacher(other.params, other.stats, jnp.float32(weight))
    _, values = jax.jit(program.train_step)(state, batch, teacher)
    task = sum(float(values[name]) for name in ("bce", "tversky"))
    kl = float(values["divergence"])
    assert kl > 0
    np.testing.assert_allclose(values["loss"], task + weight * 4 * kl, rtol=1e-6)
    # Its own teacher: the only divergence left is that of recipe, dropout and batch statistics.
    now = state.params, state.stats
    evaluated = program.divergence(now, images, masks, teacher)
    itself = dataclasses.replace(teacher, params=state.params, stats=state.stats)
    same = program.divergence(now, images, masks, itself)
    assert float(same[1]) < 0.1 * float(evaluated[1])


def test_calibrated_weight_gives_the_ratio(tmp_path, monkeypatch):
    seen = []
    original = losses.distillation_weight
    monkeypatch.setattr(
        losses, "distillation_weight", lambda *a: seen.append((a, original(*a))) or seen[-1][1]
    )
    train(dataclasses.replace(QAD, epochs=1, distill_ratio=0.2), COHORT, tmp_path)
    ((ratio, task, divergence, temperature), weight) = seen[0]
    share = weight * temperature**2 * divergence
    assert ratio == 0.2
    assert np.isclose(share / (share + task), 0.2)


@pytest.mark.parametrize("backend", ["cpu", pytest.param("gpu", marks=pytest.mark.slow)])
def test_a_diverged_teacher_fails_its_own_student_alone(backend, tmp_path, monkeypatch):
    """And nothing that is finished is trained again."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    with monkeypatch.context() as patch:
        diverge(patch, seed=2, epoch=1)
        for attempt in (1, 2):
            with pytest.raises(DivergedError, match=r"baseline_blobs_holdout_s2_.*loss is nan"):
                train(QAD, COHORT, tmp_path, [1, 2])
            found = {path.name: RunFolder(path) for path in tmp_path.glob("cnn*")}
            done = {name: run for name, run in found.items() if run.summary()}
            starts = sorted(name.replace("_blobs_holdout", "")[9:-11] for name in done)
            assert starts == ["baseline_s1", "qad-full_s1"]
            (failed,) = found.keys() - done.keys()
            assert found[failed].failure()["error"].startswith("DivergedError")
            if attempt == 1:
                before = {name: outcome.contents(run) for name, run in done.items()}
            assert {name: outcome.contents(run) for name, run in done.items()} == before


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
