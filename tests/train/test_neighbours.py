"""No bit of a slice's score depends on what else is scored, in which order, how many at a time."""

import dataclasses

import jax
import numpy as np
import pytest

import fp4jax as fp4
from fp4jax.data import Cohort, Split
from fp4jax.train import Model, Program, SliceData
from tests import blobs

COHORT = blobs.cohort(patients=5, slices=3)
P = COHORT.patients
SPLIT = Split(P[:1], P[1:3], P[3:])
FAST = ("baseline", "full")


def in_order(cohort: Cohort, order) -> Cohort:
    names = ("images", "masks", "patient_ids", "slice_index")
    return dataclasses.replace(cohort, **{name: getattr(cohort, name)[order] for name in names})


@pytest.fixture(
    scope="module",
    params=[pytest.param(r, marks=[pytest.mark.slow] * (r not in FAST)) for r in fp4.recipes()],
)
def model(request) -> Model:
    """Not trained; its parameters are as good as any."""
    program = Program(blobs.config(recipe=request.param), 3)
    state = program.start(1)
    return Model(program, state.params, state.stats, COHORT.channels, ("lesion",))


def test_logits(model):
    whole = model.logits(COHORT.images)
    backwards = model.logits(COHORT.images[::-1])[::-1]
    parts = np.concatenate([model.logits(COHORT.images[i : i + 4]) for i in range(0, 15, 4)])
    single = np.concatenate([model.logits(COHORT.images[i : i + 1]) for i in (0, 7)])
    assert np.array_equal(whole, backwards)
    assert np.array_equal(whole, parts)
    assert np.array_equal(whole[[0, 7]], single)
    # The test would see it: in one batch, images share the scale of each layer's input.
    together = jax.jit(model.program.predict)((model.params, model.stats), COHORT.images)
    apart = np.abs(whole - together).max()
    assert (apart > 1e-4) == (model.config.recipe != "baseline")


def test_scores(model, tmp_path):
    data = SliceData(COHORT)
    found = data.evaluate(model, SPLIT, tmp_path)
    # In another order of slices, and by a run with other batches.
    turned = SliceData(in_order(COHORT, np.random.default_rng(0).permutation(len(COHORT))))
    (tmp_path / "other").mkdir()
    other_batch = dataclasses.replace(model.config, batch_size=3)
    program = Program(other_batch, 3)
    program.alone = model.program.alone
    other = dataclasses.replace(model, program=program)
    assert turned.evaluate(other, SPLIT, tmp_path / "other") == found
    assert turned.validate(other, SPLIT.val) == data.validate(model, SPLIT.val)
    for name in ("val_scores.npz", "test_scores.npz"):
        with np.load(tmp_path / name) as one, np.load(tmp_path / "other" / name) as two:
            assert all(np.array_equal(one[key], two[key]) for key in one)
    # One patient alone, and among others.
    threshold = found["threshold"]
    for patient in SPLIT.test:
        alone = SliceData(COHORT.select([patient]))
        scores = [one.score(model, [patient], threshold) for one in (data, turned, alone)]
        assert scores[0] == scores[1] == scores[2]
        assert found["test_patients"][patient] == scores[0]["hard_dice_patient_at_best"]
