"""The compiled steps: pure, one compilation, lanes equal to single runs, every recipe."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fp4jax as fp4
from fp4jax.train import Batch, Program
from tests import blobs

COHORT = blobs.cohort()


def batch(place: int = 0, n: int = 8) -> Batch:
    index = np.arange(place, place + n, dtype=np.int32)
    return Batch(
        images=jnp.asarray(COHORT.images[index]),
        masks=jnp.asarray(COHORT.masks[index]),
        index=jnp.asarray(index),
        epoch=jnp.asarray(1, jnp.int32),
    )


def equal(a, b) -> bool:
    leaves = (jax.tree.leaves(tree) for tree in (a, b))
    return all(np.array_equal(x, y) for x, y in zip(*leaves, strict=True))


def close(a, b, tolerance: float) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


SLOW = [r for r in fp4.recipes() if r not in ("baseline", "2d+rht+sr")]


@pytest.mark.parametrize(
    "recipe",
    [pytest.param(r, marks=[pytest.mark.slow] * (r in SLOW)) for r in fp4.recipes()],
)
def test_every_recipe_takes_steps_in_one_compilation(recipe):
    program = Program(blobs.config(recipe=recipe), 3, steps=8)
    state = program.init(jnp.uint32(1))
    losses = []
    for _ in range(6):
        state, values = program.step(state, batch())
        losses.append(float(values["loss"]))
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    assert program.step._cache_size() == 1
    assert int(state.step) == 6


def test_step_is_pure_and_depends_on_the_seed_alone():
    program = Program(blobs.config(augment=True), 3, steps=8)
    one, again, other = (program.init(jnp.uint32(s)) for s in (1, 1, 2))
    assert equal(one, again)
    assert not equal(one.params, other.params)
    step = jax.jit(program.train_step)
    first, second = step(one, batch()), step(one, batch())
    assert equal(first, second)
    # same weights, another seed: other augmentation, dropout and rounding
    reseeded = dataclasses.replace(one, seed=jnp.uint32(7))
    assert not equal(step(reseeded, batch())[0].params, first[0].params)


def test_recipes_start_from_the_same_weights():
    states = [
        Program(blobs.config(recipe=r), 3, 1).init(jnp.uint32(3)) for r in ("baseline", "full")
    ]
    close(states[0].params, states[1].params, 1e-6)


def test_lanes_equal_single_runs():
    seeds = [3, 4]
    config = blobs.config()
    lanes, alone = Program(config, 3, 4, lanes=2), Program(config, 3, 4)
    many = lanes.init(jnp.asarray(seeds, jnp.uint32))
    order = jnp.arange(16, dtype=jnp.int32).reshape(2, 8)
    images, masks = jnp.asarray(COHORT.images), jnp.asarray(COHORT.masks)
    active = jnp.asarray([True, False])
    before = jax.tree.map(lambda a: a[1], many)
    after, values = lanes.epoch(
        many, images, masks, jnp.stack([order, order]), jnp.asarray(1, jnp.int32), active
    )
    state, losses = alone.init(jnp.uint32(seeds[0])), []
    for index in order:
        state, value = alone.step(state, batch(int(index[0])))
        losses.append(value["loss"])
    # Batched convolutions add up in another order.
    np.testing.assert_allclose(values["loss"][0], losses, rtol=1e-4)
    close(jax.tree.map(lambda a: a[0], after.params), state.params, 5e-3)
    # a lane that is not active stays as it was
    assert equal(jax.tree.map(lambda a: a[1], after), before)


def test_bfloat16_keeps_float32_parameters():
    program = Program(blobs.config(dtype="bfloat16"), 3, steps=4)
    state, values = program.step(program.init(jnp.uint32(0)), batch())
    assert {p.dtype for p in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    assert np.isfinite(float(values["loss"]))


def test_padding_changes_no_metric():
    program = Program(blobs.config(), 3, steps=4)
    state = program.init(jnp.uint32(0))
    part = batch(n=5)
    sums = program.accumulate(
        program.zero_sums(5), state.params, state.stats, part.images, part.masks, jnp.ones(5)
    )
    whole = batch(n=8)
    weights = jnp.asarray([1.0] * 5 + [0.0] * 3)
    padded = program.accumulate(
        program.zero_sums(5), state.params, state.stats, whole.images, whole.masks, weights
    )
    ids = COHORT.patient_ids[:5]
    a, b = sums.summarize(ids), padded.summarize(ids)
    assert a.keys() == b.keys()
    np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=1e-5)
