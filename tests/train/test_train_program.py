"""The compiled steps: pure, one compilation, lanes equal to single runs, every recipe."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import fp4jax as fp4
from fp4jax.train import Batch, Program
from fp4jax.train.program import build
from tests import blobs

COHORT = blobs.cohort()
RATE = np.float32(3e-3)


def batch(place: int = 0, n: int = 8, epoch: int = 1) -> Batch:
    index = np.arange(place, place + n, dtype=np.int32)
    return Batch(
        images=jnp.asarray(COHORT.images[index]),
        targets=jnp.asarray(COHORT.masks[index]),
        index=jnp.asarray(index),
        epoch=jnp.asarray(epoch, jnp.int32),
        rate=jnp.asarray(RATE),
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
    program = Program(blobs.config(recipe=recipe), channels=3)
    state = program.start(1)
    losses = []
    for _ in range(6):
        state, values = program.step(state, batch())
        losses.append(float(values["loss"]))
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    assert program.step._cache_size() == 1
    assert int(state.step) == 6
    assert float(values["learning_rate"]) == RATE


def test_step_is_pure_and_depends_on_the_seed_alone():
    program = Program(blobs.config(augment=True), channels=3)
    one, again, other = (program.start(seed) for seed in (1, 1, 2))
    assert equal(one, again)
    assert not equal(one.params, other.params)
    step = jax.jit(program.train_step)
    first, second = step(one, batch()), step(one, batch())
    assert equal(first, second)
    # same weights, another seed: other augmentation, dropout and rounding
    reseeded = dataclasses.replace(one, seed=jnp.uint32(7))
    assert not equal(step(reseeded, batch())[0].params, first[0].params)
    # another epoch: other augmentation
    assert not equal(step(one, batch(epoch=2))[0].params, first[0].params)


def test_recipes_start_from_the_same_weights():
    states = [Program(blobs.config(recipe=r), 3).start(3) for r in ("baseline", "full")]
    close(states[0].params, states[1].params, 1e-6)


def test_abstract_says_what_start_makes():
    program = Program(blobs.config(), 3)
    made = jax.tree.map(lambda a: (a.shape, a.dtype), (program.abstract(), program.start(3)))
    assert made[0] == made[1]


def test_lanes_equal_single_runs():
    """One of three lanes takes a step less, and one none: what it is stays as it was."""
    seeds, taken = (3, 4, 5), (2, 1, 0)
    config = blobs.config()
    lanes, alone = Program(config, 3, lanes=3), Program(config, 3)
    many = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(lanes.start, seeds))
    before = jax.tree.map(lambda a: np.asarray(a[2]), many)
    order = np.arange(16, dtype=np.int32).reshape(2, 8)
    steps = (
        jnp.asarray(np.stack([order] * 3)),
        jnp.ones((3, 2), jnp.int32),
        jnp.full((3, 2), RATE),
        jnp.asarray(np.arange(2)[None] < np.array(taken)[:, None]),
    )
    images, masks = jnp.asarray(COHORT.images), jnp.asarray(COHORT.masks)
    after, values = lanes.epoch(many, images, masks, steps)
    for lane, (seed, count) in enumerate(zip(seeds, taken, strict=True)):
        state, losses = alone.start(seed), []
        for index in order[:count]:
            state, value = alone.step(state, batch(int(index[0])))
            losses.append(value["loss"])
        # Batched convolutions add up in another order.
        np.testing.assert_allclose(values["loss"][lane, :count], losses, rtol=1e-4)
        close(jax.tree.map(lambda a, lane=lane: a[lane], after.params), state.params, 5e-3)
        assert int(after.step[lane]) == count
    assert equal(jax.tree.map(lambda a: a[2], after), before)


def test_bfloat16_keeps_float32_parameters():
    program = Program(blobs.config(dtype="bfloat16"), 3)
    state, values = program.step(program.start(0), batch())
    assert {p.dtype for p in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    assert np.isfinite(float(values["loss"]))


def test_rules_say_it_all():
    """Also of the layers that the model keeps in high precision otherwise."""
    layers = lambda config: {  # noqa: E731
        layer.path: layer.recipe
        for layer in fp4.nnx.report(nnx.eval_shape(lambda: build(config, 3, 1, 0))).layers
    }
    usual = layers(blobs.config(recipe="full"))
    kept = [path for path, recipe in usual.items() if not recipe]
    assert kept
    rules = layers(blobs.config(recipe={"encoders": "sr", ".*": "full"}))
    assert set(rules) == set(usual)
    assert all(rules[p] == ("sr" if p.startswith("encoders") else "full") for p in rules)
    both = layers(blobs.config(recipe={"encoders": "sr", ".*": "full"}, keep=tuple(kept)))
    assert [path for path, recipe in both.items() if not recipe] == kept
