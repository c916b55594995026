"""Losses against the reference's values and gradients, and at the edges of their domain."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fp4jax import losses
from fp4jax.losses import Distillation, Loss, get_loss

FILE = "ref_losses_metrics.npz"


def nhwc(a) -> jax.Array:
    return jnp.asarray(np.moveaxis(a, 1, -1))


@pytest.fixture(scope="module")
def batch(golden):
    g = golden(FILE)
    return nhwc(g["logits"]), jnp.asarray(g["mask01"]), nhwc(g["teacher_logits"])


GOLDEN = {
    "dice": get_loss("dice"),
    "bce+dice": get_loss("bce_dice_ref"),
    "tversky": get_loss("tversky"),
    "bce+tversky": get_loss("bce_tversky_standalone_ref"),
    "tversky_a0.5_b0.5": dataclasses.replace(get_loss("tversky"), alpha=0.5, beta=0.5),
    "tversky_a0.7_b0.3": dataclasses.replace(get_loss("tversky"), alpha=0.7, beta=0.3),
    "train_qat": get_loss("bce_tversky_ref"),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_value_and_gradient_are_the_references(name, golden, batch):
    g = golden(FILE)
    logits, mask, _ = batch
    value, gradient = jax.jit(jax.value_and_grad(GOLDEN[name]))(logits, mask)
    np.testing.assert_allclose(value, g[f"loss.{name}"], rtol=5e-7)
    expected = np.moveaxis(g[f"dloss_dlogits.{name}"], 1, -1)
    np.testing.assert_allclose(gradient, expected, rtol=2e-5, atol=2e-10)


@pytest.mark.parametrize(("t", "w"), [(1, 1), (2, 0.5), (2, 2), (4, 1)])
def test_distillation_is_the_references(t, w, golden, batch):
    g = golden(FILE)
    key = f"train_qad_T{t}_w{w}"
    logits, mask, teacher = batch
    loss = Distillation(
        task=get_loss("bce_tversky_ref"), weight=float(w), temperature=float(t), ref=True
    )
    (value, parts), gradient = jax.jit(jax.value_and_grad(loss.with_components, has_aux=True))(
        logits, mask, teacher
    )
    found = [*(parts[k] for k in losses.COMPONENTS), parts["divergence"], value]
    np.testing.assert_allclose(found, g[f"{key}.components_bce_tversky_dice_kld_total"], rtol=1e-6)
    expected = np.moveaxis(g[f"dloss_dlogits.{key}"], 1, -1)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=5e-9)


def test_calibrated_weights_are_the_references(golden, batch):
    g = golden(FILE)
    logits, mask, teacher = batch
    task = float(get_loss("bce_tversky_ref")(logits, mask))
    kl = float(losses.divergence(logits, teacher, ref=True))
    found = [losses.distillation_weight(float(r), task, kl) for r in g["calibrate.target_ratios"]]
    np.testing.assert_allclose(found, g["calibrate.kld_weights"], rtol=1e-6)


def test_masks_of_0_and_255_go_through_the_helper(golden, batch):
    g = golden(FILE)
    mask = losses.mask_from_255(jnp.asarray(g["mask255"]))
    value = get_loss("bce_tversky_standalone_ref")(batch[0], mask)
    np.testing.assert_allclose(value, g["loss.bce+tversky_mask255"], rtol=5e-7)


def test_kl_is_zero_at_the_teacher_and_has_the_cross_entropys_gradient(batch):
    _, _, teacher = batch
    student = teacher * 0.7 + 0.3
    assert jax.jit(losses.divergence)(teacher, teacher) == 0
    np.testing.assert_allclose(
        jax.jit(jax.grad(losses.divergence))(student, teacher),
        jax.jit(jax.grad(lambda s: losses.divergence(s, teacher, ref=True)))(student),
        rtol=1e-3,
        atol=2e-9,
    )
    # The teacher's entropy is the difference.
    entropy = losses.divergence(teacher, teacher, ref=True)
    np.testing.assert_allclose(
        losses.divergence(student, teacher, ref=True) - entropy,
        losses.divergence(student, teacher),
        rtol=1e-3,
    )
    assert not np.any(jax.jit(jax.grad(losses.divergence, argnums=1))(student, teacher))


@pytest.mark.parametrize("name", ["bce_tversky", "bce_tversky_ref", "bce_dice"])
def test_finite_everywhere(name):
    """Every combination of a constant logit and a number of positive pixels is a lane."""
    value, positives = np.meshgrid([0, 20, -20, 60, -60, 1e4, -1e4, 1e30], [0, 3, 16])
    logits = np.broadcast_to(value.reshape(-1, 1, 1, 1), (24, 1, 4, 4)).astype(np.float32)
    mask = (np.arange(16) < positives.reshape(-1, 1)).astype(np.uint8).reshape(24, 1, 4, 4)
    lanes = jax.jit(jax.vmap(jax.value_and_grad(get_loss(name))))
    loss, gradient = lanes(jnp.asarray(logits), jnp.asarray(mask))
    assert jnp.isfinite(loss).all()
    assert jnp.isfinite(gradient).all()


def test_gradients_equal_float64_differences():
    generator = np.random.default_rng(0)
    z = np.concatenate([generator.normal(0, 4, 40), [0, 20, -20, 30, -30, 16, -16, 1e-3]])
    y = generator.integers(0, 2, z.size)

    def bce(z):
        return np.mean(np.logaddexp(0, np.where(y == 1, -z, z)))

    gradient = jax.grad(losses.bce)(jnp.asarray(z[None], jnp.float32), jnp.asarray(y[None]))
    exact = np.where(y == 1, -1, 1) / (1 + np.exp(np.where(y == 1, z, -z))) / z.size
    # Relative, also where the loss is 1e-13: nothing cancels.
    np.testing.assert_allclose(gradient[0], exact, rtol=3e-6)
    value = losses.bce(jnp.asarray(z[None], jnp.float32), jnp.asarray(y[None]))
    np.testing.assert_allclose(value, bce(z), rtol=1e-6)


def sample(n: int, *space: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(n)
    logits = generator.normal(0, 3, (n, *space)).astype(np.float32)
    return logits, (generator.random((n, *space)) < 0.2).astype(np.uint8)


def test_default_has_gradient_where_the_references_clamp_has_none():
    logits, mask = jnp.full((1, 8, 8), 30.0), jnp.zeros((1, 8, 8), jnp.uint8)
    fixed, ref = (
        jax.jit(jax.grad(get_loss(n)))(logits, mask) for n in ("bce_tversky", "bce_tversky_ref")
    )
    np.testing.assert_allclose(fixed, 1 / 64, rtol=1e-6)
    assert not np.any(ref)


@pytest.mark.parametrize("name", ["bce_tversky", "bce_tversky_ref", "bce_dice"])
def test_padded_images_change_nothing(name):
    loss = get_loss(name)
    of_batch = jax.jit(jax.value_and_grad(loss.with_components, has_aux=True))
    logits, mask = sample(3, 8, 8)
    (expected, its_parts), its_gradient = of_batch(jnp.asarray(logits), jnp.asarray(mask))
    weights = jnp.array([1, 1, 1, 0, 0], jnp.float32)
    for padding in (0, np.nan, np.inf):
        padded = jnp.asarray(np.pad(logits, ((0, 2), (0, 0), (0, 0)), constant_values=padding))
        padded_mask = jnp.asarray(np.pad(mask, ((0, 2), (0, 0), (0, 0)), constant_values=1))
        (value, parts), gradient = of_batch(padded, padded_mask, weights)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        for key in losses.COMPONENTS:
            np.testing.assert_allclose(parts[key], its_parts[key], rtol=1e-6)
        np.testing.assert_allclose(gradient[:3], its_gradient, rtol=1e-5, atol=1e-9)
        assert not np.any(gradient[3:])
        (nothing, _), gradient = of_batch(padded, padded_mask, jnp.zeros(5))
        assert nothing == 0
        assert not np.any(gradient)


def test_shapes_dtypes_and_functions_agree():
    logits, mask = (jnp.asarray(a) for a in sample(2, 4, 6))
    loss = get_loss("bce_tversky_standalone")
    expected = jax.jit(loss)(logits, mask)
    for z, y in [
        (logits[..., None], mask.astype(jnp.float32)),
        (logits[..., None], mask[..., None]),
        (logits, mask.astype(bool)),
    ]:
        np.testing.assert_allclose(jax.jit(loss)(z, y), expected, rtol=1e-6)
    parts = jax.jit(lambda *a: losses.bce(*a) + losses.tversky(*a))(logits, mask)
    np.testing.assert_allclose(parts, expected, rtol=1e-6)
    dice = jax.jit(losses.dice)(logits, mask)
    np.testing.assert_allclose(dice, jax.jit(get_loss("dice"))(logits, mask), rtol=1e-6)
    assert jax.eval_shape(loss, logits.astype(jnp.bfloat16), mask).dtype == jnp.float32


def test_lanes():
    logits, mask = (jnp.asarray(a).reshape(3, 2, 4, 4) for a in sample(6, 4, 4))
    loss = jax.jit(get_loss("bce_tversky"))
    alone = [loss(z, y) for z, y in zip(logits, mask, strict=True)]
    np.testing.assert_allclose(jax.jit(jax.vmap(loss))(logits, mask), alone, rtol=1e-6)


def test_refusals():
    with pytest.raises(ValueError, match="known names: bce_tversky"):
        get_loss("focal")
    with pytest.raises(ValueError, match="has no part"):
        Loss(name="nothing")
    with pytest.raises(ValueError, match=r"Loss\.eps is 0.0"):
        Loss(name="x", bce_weight=1.0, eps=0.0)
    with pytest.raises(ValueError, match=r"Loss\.alpha is nan"):
        Loss(name="x", bce_weight=1.0, alpha=float("nan"))
    with pytest.raises(ValueError, match=r"\(2, 4, 4, 2\) do not fit"):
        losses.bce(jnp.zeros((2, 4, 4, 2)), jnp.zeros((2, 4, 4)))
    with pytest.raises(ValueError, match=r"give shape \(2,\)"):
        get_loss("dice")(jnp.zeros((2, 4)), jnp.zeros((2, 4)), jnp.ones(1))
    with pytest.raises(ValueError, match="temperature"):
        losses.divergence(jnp.zeros((2, 4)), jnp.zeros((2, 4)), temperature=0.0)
    with pytest.raises(ValueError, match="ratio"):
        losses.distillation_weight(1.0, 1.0, 1.0)
