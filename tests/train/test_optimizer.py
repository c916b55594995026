"""Optimizers, plateau and early stopping against the reference's traces."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fp4jax.train.early_stopping import EarlyStopping
from fp4jax.train.optimizer import DEFAULTS, SCHEDULES, optimizer, schedule
from fp4jax.train.plateau import Plateau

FILE = "ref_optim.npz"
TRACES = {"adamax_lr5e-4": DEFAULTS["cnn"], "adamw_lr1e-4_wd1e-4": DEFAULTS["swin"]}
SERIES = ("flat", "slow_worsening", "improve_then_noise", "slow_improvement")


def step(transformation):
    def update(params, state, gradients, rate):
        updates, state = transformation.update(gradients, state, params)
        return jax.tree.map(lambda p, u: p - rate * u, params, updates), state

    return jax.jit(update)


@pytest.mark.parametrize("name", TRACES)
def test_trace_is_torchs(name, golden):
    g = golden(FILE)
    constants = TRACES[name]
    transformation = optimizer(constants.optimizer, constants.weight_decay)
    rate = jnp.float32(constants.learning_rate)
    params = [jnp.asarray(g[f"{name}.p{i}_init"]) for i in range(2)]
    state = transformation.init(params)
    update = step(transformation)
    for t in range(6):
        before = params
        gradients = [jnp.asarray(g[f"{name}.step{t}.g{i}"]) for i in range(2)]
        norm = jax.jit(optax.tree.norm)(gradients)
        np.testing.assert_allclose(norm, g[f"{name}.grad_norms"][t], rtol=1e-6)
        params, state = update(params, state, gradients, rate)
        for i in range(2):
            expected = g[f"{name}.step{t}.p{i}"]
            np.testing.assert_allclose(params[i], expected, rtol=1e-6, atol=1e-8)
            # The step itself, up to the rounding of the parameters it is the difference of.
            np.testing.assert_allclose(
                params[i] - before[i], expected - np.asarray(before[i]), rtol=2e-5, atol=3e-7
            )
    assert update._cache_size() == 1


@pytest.mark.parametrize("name", ["adamw", "adamax"])
def test_lanes_have_their_own_rates_and_nothing_compiles_again(name):
    transformation = optimizer(name, 1e-2)
    params = {"w": jnp.ones((3, 4)), "b": jnp.zeros((3, 2))}
    gradients = jax.tree.map(lambda p: p + 0.5, params)
    lanes, alone = jax.jit(jax.vmap(step(transformation))), step(transformation)
    state = jax.vmap(transformation.init)(params)
    one = [jax.tree.map(lambda a, i=i: a[i], (params, state, gradients)) for i in range(3)]
    for rates in ([1e-3, 3e-4, 0.0], [1e-4, 0.0, 1e-2]):
        params, state = lanes(params, state, gradients, jnp.array(rates, jnp.float32))
        for i, rate in enumerate(rates):
            p, s, g = one[i]
            one[i] = (*alone(p, s, g, jnp.float32(rate)), g)
            for key in params:
                np.testing.assert_allclose(params[key][i], one[i][0][key], rtol=1e-6)
    np.testing.assert_array_equal(params["w"][2] < 1, True)
    assert lanes._cache_size() == alone._cache_size() == 1


def test_clipping_is_to_the_norm_over_all_parameters():
    params = {"a": jnp.zeros(3), "b": jnp.zeros(1)}
    big = {"a": jnp.full(3, 3e3), "b": jnp.full(1, 4e3)}
    norm = float(optax.tree.norm(big))
    unit = jax.tree.map(lambda g: g / norm, big)

    def moment(transformation, gradients):
        _, state = jax.jit(transformation.update)(gradients, transformation.init(params), params)
        return optax.tree.get(state, "mu")

    clipped, free = optimizer("adamax"), optimizer("adamax", clip=None)
    for key in params:
        np.testing.assert_allclose(moment(clipped, big)[key], moment(free, unit)[key], rtol=1e-6)
        np.testing.assert_allclose(moment(free, big)[key], 0.1 * big[key], rtol=1e-6)


def test_a_user_can_chain_it(standard_promotion):
    transformation = optax.chain(optimizer("adamw", 0.1), optax.scale_by_learning_rate(0.1))
    params = {"w": jnp.ones(2)}
    updates, _ = transformation.update({"w": jnp.zeros(2)}, transformation.init(params), params)
    np.testing.assert_allclose(optax.apply_updates(params, updates)["w"], 0.99, rtol=1e-6)


def test_moments_keep_the_parameters_dtype():
    params = {"w": jnp.ones(2, jnp.bfloat16)}
    transformation = optimizer("adamax", 1e-2)
    updates, state = transformation.update(params, transformation.init(params), params)
    assert updates["w"].dtype == optax.tree.get(state, "mu")["w"].dtype == jnp.bfloat16


def test_one_cycle():
    rate = jax.jit(jax.vmap(schedule("onecycle", 1e-2, 100)))
    rates = rate(jnp.arange(121))
    np.testing.assert_allclose(rates[np.array([0, 30, 100, 120])], [4e-4, 1e-2, 4e-8, 4e-8], 1e-4)
    assert np.all(np.diff(rates[:31]) > 0)
    assert np.all(np.diff(rates[30:101]) < 0)
    for steps in range(1, 6):
        short = jax.vmap(schedule("onecycle", 1e-2, steps))(jnp.arange(8))
        assert np.all(np.isfinite(short) & (np.asarray(short) > 0))


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "onecycle"])
def test_other_schedules_are_constant(name):
    rate = schedule(name, 1e-2, 100)(jnp.array(7, jnp.int32))
    assert rate.dtype == jnp.float32
    assert float(rate) == pytest.approx(1e-2)


def test_defaults_are_the_references():
    ours = ("swin_unetr", "unet", "basic_unet")
    assert {arch: dataclasses.astuple(c) for arch, c in DEFAULTS.items() if arch not in ours} == {
        "cnn": ("adamax", 5e-4, 0.0),
        "vit": ("adamw", 1e-4, 1e-4),
        "vit_adamw": ("adamw", 1e-4, 1e-4),
        "vit_adamax": ("adamax", 5e-4, 0.0),
        "swin": ("adamw", 1e-4, 1e-4),
    }


def test_refusals():
    with pytest.raises(ValueError, match="known names: adamw, adamax"):
        optimizer("sgd")
    with pytest.raises(ValueError, match=r"weight_decay is -1\.0"):
        optimizer("adamw", -1.0)
    with pytest.raises(ValueError, match=r"clip is 0\.0"):
        optimizer("adamw", clip=0.0)
    with pytest.raises(ValueError, match="known names: plateau, plateau_ref"):
        schedule("cosine", 1e-3, 10)
    with pytest.raises(ValueError, match="learning_rate is nan"):
        schedule("constant", float("nan"), 10)
    with pytest.raises(ValueError, match="steps is 0"):
        schedule("onecycle", 1e-3, 0)


def scales(plateau, losses):
    found = []
    for loss in losses:
        # Through JSON after every epoch, as a resumed run would.
        plateau = Plateau.from_dict(json.loads(json.dumps(plateau.to_dict())))
        plateau = plateau.update(float(loss))
        found.append(plateau.scale)
    return found


@pytest.mark.parametrize("series", SERIES)
def test_plateau_ref_is_the_references(series, golden):
    g = golden(FILE)
    found = scales(Plateau(ref=True), g[f"plateau.{series}.val_loss"])
    np.testing.assert_array_equal(found, g[f"plateau.{series}.lr_scale_after_epoch"])


@pytest.mark.parametrize("series", ["flat", "slow_worsening"])
def test_plateau_decays_where_the_references_does_not(series, golden):
    losses = golden(FILE)[f"plateau.{series}.val_loss"]
    found = scales(Plateau(), losses)
    # One epoch sets the best, eleven are not better; then eleven more, and so on.
    expected = [0.5 ** (epoch // 11) for epoch in range(40)]
    np.testing.assert_array_equal(found, expected)


def test_plateau_ignores_losses_that_are_not_finite_and_cools_down():
    plateau = Plateau(patience=1, cooldown=2, min_scale=0.3)
    nan = float("nan")
    assert scales(plateau, [nan, 1.0, nan, 1.0]) == [1, 1, 1, 0.5]
    assert scales(plateau, [1.0] * 10) == [1, 1, 0.5, 0.5, 0.5, 0.5, 0.3, 0.3, 0.3, 0.3]


def stop(stopping, losses):
    for loss in losses:
        stopping = EarlyStopping.from_dict(json.loads(json.dumps(stopping.to_dict())))
        stopping = stopping.update(float(loss))
        if stopping.stopped:
            break
    return stopping


@pytest.mark.parametrize("series", SERIES)
def test_early_stopping_ref_is_the_references(series, golden):
    g = golden(FILE)
    losses = g[f"plateau.{series}.val_loss"]
    losses = np.concatenate([losses, np.full(100 - len(losses), losses[-1])])
    state = stop(EarlyStopping(ref=True), losses)
    key = f"earlystop.{series}.best_epoch_and_stop_epoch(tail repeats the last value)"
    assert [state.best_epoch, state.epoch] == g[key].tolist()


def test_patience_counts_after_the_warm_up_and_the_best_epoch_is_the_lowest():
    losses = [1.0, 0.9995, 0.9991] + [1.0] * 100
    fixed, ref = (stop(EarlyStopping(ref=r), losses) for r in (False, True))
    assert (fixed.best_epoch, fixed.epoch) == (3, 60)
    assert (ref.best_epoch, ref.epoch) == (1, 41)
    # A steady fall by less than min_delta an epoch is progress every other epoch.
    slow = [1 - 0.0006 * i for i in range(100)]
    assert not stop(EarlyStopping(), slow).stopped
    endless = stop(EarlyStopping(patience=None, warmup=0), [1.0] + [2.0] * 200)
    assert (endless.stopped, endless.best_epoch, endless.is_best) == (False, 1, False)
    assert stop(EarlyStopping(patience=0, warmup=0), [1.0, 0.5, 0.6]).epoch == 3


def test_early_stopping_survives_losses_that_are_not_finite():
    state = stop(EarlyStopping(patience=2, warmup=0), [float("nan"), 1.0, float("inf"), np.nan])
    assert (state.best_epoch, state.epoch, state.stopped) == (2, 4, True)
    assert state.update(0.0) == state


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (Plateau, "factor", 1.0),
        (Plateau, "patience", -1),
        (Plateau, "threshold", -1e-4),
        (Plateau, "min_scale", 2.0),
        (EarlyStopping, "patience", -1),
        (EarlyStopping, "warmup", -1),
        (EarlyStopping, "min_delta", float("nan")),
    ],
)
def test_refusals_of_schedules(kind, field, value):
    with pytest.raises(ValueError, match=f"{kind.__name__}.{field} is .*; give "):
        kind(**{field: value})
