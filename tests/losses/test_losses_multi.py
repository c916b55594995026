"""Losses of several labels and of classes: per-label definitions, float64, MONAI, padding."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fp4jax import losses
from fp4jax.losses import ClassLoss, Distillation, get_loss

MASKS = ("bce_tversky_ref", "bce_dice")


def labelled(n=3, k=3, space=(4, 5, 2), seed=0):
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 3, (n, *space, k)).astype(np.float32)
    masks = (generator.random((n, *space, k)) < 0.2).astype(np.uint8)
    return jnp.asarray(logits), jnp.asarray(masks)


def classified(n=3, k=3, space=(4, 5, 2), seed=0):
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 3, (n, *space, k + 1)).astype(np.float32)
    return jnp.asarray(logits), jnp.asarray(generator.integers(0, k + 1, (n, *space), np.uint8))


@pytest.mark.parametrize("name", losses.losses()[:8])
def test_one_label_is_the_binary_loss_to_the_bit(name):
    """It is the same program."""
    logits, masks = labelled(k=1)
    for y in (masks, masks[..., 0]):
        binary, one = (
            jax.make_jaxpr(jax.value_and_grad(get_loss(name, k).with_components, has_aux=True))(
                logits, y, jnp.ones(3)
            )
            for k in (None, 1)
        )
        assert str(binary) == str(one)


@pytest.mark.parametrize("name", MASKS)
def test_labels_are_the_mean_of_each_labels_loss(name):
    logits, masks = labelled()
    weights = jnp.array([1.0, 0.5, 2.0])
    alone = jax.jit(get_loss(name).with_components)
    values = [alone(logits[..., i], masks[..., i], weights) for i in range(3)]
    shares = np.array([1.0, 2.0, 5.0])
    for label_weights in (None, tuple(shares.tolist())):
        loss = dataclasses.replace(get_loss(name, labels=3), label_weights=label_weights)
        found, parts = jax.jit(loss.with_components)(logits, masks, weights)
        w = None if label_weights is None else shares
        expected = np.average([float(v) for v, _ in values], weights=w)
        np.testing.assert_allclose(found, expected, rtol=2e-6)
        for part in losses.COMPONENTS:
            expected = np.average([float(p[part]) for _, p in values], weights=w)
            np.testing.assert_allclose(parts[part], expected, rtol=2e-6)
    # A label of weight 0 has no gradient.
    loss = dataclasses.replace(get_loss(name, labels=3), label_weights=(1.0, 0.0, 1.0))
    gradient = np.asarray(jax.jit(jax.grad(loss))(logits, masks, weights))
    assert not gradient[..., 1].any()
    assert gradient[..., ::2].any()


def definition(z, labels, loss):
    """A ClassLoss of one batch in float64."""
    z = np.asarray(z, np.float64).reshape(len(z), -1, z.shape[-1])
    y = np.eye(z.shape[-1])[np.asarray(labels).reshape(len(z), -1)]
    p = np.exp(z - np.logaddexp.reduce(z, -1, keepdims=True))
    ce = -(y * np.log(p)).sum(-1).mean(1)
    first = 0 if loss.include_background else 1
    p, y = p[..., first:], y[..., first:]
    tp, fp, fn = (p * y).sum(1), (p * (1 - y)).sum(1), ((1 - p) * y).sum(1)
    index = (tp + loss.eps) / (tp + loss.alpha * fp + loss.beta * fn + loss.eps)
    dice = (2 * tp + loss.eps) / (2 * tp + fp + fn + loss.eps)
    parts = {"ce": ce, "tversky": 1 - index.mean(1), "dice": 1 - dice.mean(1)}
    return {name: part.mean() for name, part in parts.items()}


@pytest.mark.parametrize("background", [False, True])
def test_classes_are_their_definition(background):
    loss = ClassLoss(
        name="all",
        ce_weight=0.5,
        tversky_weight=2.0,
        dice_weight=1.0,
        include_background=background,
    )
    logits, labels = classified()
    value, parts = jax.jit(loss.with_components)(logits, labels)
    expected = definition(logits, labels, loss)
    assert set(parts) == set(losses.CLASS_COMPONENTS)
    for name, part in expected.items():
        np.testing.assert_allclose(parts[name], part, rtol=2e-6)
    np.testing.assert_allclose(
        value, 0.5 * expected["ce"] + 2 * expected["tversky"] + expected["dice"], rtol=2e-6
    )
    channel = jax.jit(loss)(logits, labels.astype(jnp.int32)[..., None])
    # Another program, whose sums may have another order.
    np.testing.assert_allclose(channel, value, rtol=1e-6)


def test_cross_entropy_of_classes_does_not_cancel():
    """Value and gradient where the class is all but certain, relative to 1e-13."""
    z = np.array([[30.0, 0, 0], [0, 25, -5], [-20, 3, 20], [1e4, 0, 0], [0, 1e30, 3]])
    labels = np.array([0, 1, 2, 1, 0])
    logits = jnp.asarray(z[:, None], jnp.float32)
    lanes = jax.jit(jax.vmap(jax.value_and_grad(get_loss("ce"))))
    value, gradient = lanes(logits[:, None], jnp.asarray(labels)[:, None, None])
    others = np.where(np.eye(3)[labels] == 1, -np.inf, z)
    gap = np.logaddexp.reduce(others, 1) - z[np.arange(5), labels]
    np.testing.assert_allclose(value, np.logaddexp(0, gap), rtol=1e-6)
    share = np.exp(others - np.logaddexp.reduce(others, 1, keepdims=True))
    wrong = np.exp(-np.logaddexp(0, -gap))[:, None]
    expected = wrong * np.where(np.eye(3)[labels] == 1, -1, share)
    np.testing.assert_allclose(gradient[:, 0, 0], expected, rtol=2e-5, atol=1e-38)
    # Two classes are the binary cross-entropy of the difference.
    logits, labels = classified(k=1)
    np.testing.assert_allclose(
        jax.jit(get_loss("ce"))(logits, labels),
        jax.jit(losses.bce)(logits[..., 1] - logits[..., 0], labels),
        rtol=1e-6,
    )


def test_kl_of_classes():
    student, _ = classified(seed=1)
    teacher, labels = classified(seed=2)
    kl = jax.jit(losses.class_divergence)
    assert kl(teacher, teacher) == 0
    a, b = (np.asarray(z, np.float64) / 2 for z in (teacher, student))
    log_p, log_q = (z - np.logaddexp.reduce(z, -1, keepdims=True) for z in (a, b))
    expected = (np.exp(log_p) * (log_p - log_q)).sum(-1).mean()
    np.testing.assert_allclose(kl(student, teacher), expected, rtol=1e-5)
    # Two classes: the divergence of the sigmoid of their difference.
    two = [z[..., :2] for z in (student, teacher)]
    one = [z[..., 1] - z[..., 0] for z in two]
    np.testing.assert_allclose(kl(*two), jax.jit(losses.divergence)(*one), rtol=1e-5)
    loss = Distillation(task=get_loss("ce_dice"), weight=0.5, temperature=2.0)
    value, parts = jax.jit(loss.with_components)(student, labels, teacher)
    task = jax.jit(get_loss("ce_dice"))(student, labels)
    np.testing.assert_allclose(value, task + 0.5 * 4 * expected, rtol=1e-5)
    assert set(parts) == {*losses.CLASS_COMPONENTS, "divergence"}
    logits, masks = labelled()
    loss = Distillation(task=get_loss("bce_dice", labels=3))
    _, parts = jax.jit(loss.with_components)(logits, masks, logits)
    assert parts["divergence"] == 0


@pytest.mark.parametrize("name", ["bce_tversky", "ce_dice"])
def test_padded_images_change_nothing(name):
    if name.startswith("bce"):
        loss, (logits, masks) = get_loss(name, labels=3), labelled()
    else:
        loss, (logits, masks) = get_loss(name), classified()
    of_batch = jax.jit(jax.value_and_grad(loss))
    expected, its_gradient = of_batch(logits, masks)
    rows = [(0, 2), *[(0, 0)] * (logits.ndim - 1)]
    for filling in (0, np.nan, np.inf):
        padded = jnp.pad(logits, rows, constant_values=filling)
        padded_masks = jnp.pad(masks, rows[: masks.ndim], constant_values=255)
        weights = jnp.array([1, 1, 1, 0, 0], jnp.float32)
        value, gradient = of_batch(padded, padded_masks, weights)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        np.testing.assert_allclose(gradient[:3], its_gradient, rtol=1e-5, atol=1e-9)
        assert not np.any(gradient[3:])
        assert of_batch(padded, padded_masks, jnp.zeros(5))[0] == 0


def test_unknown_classes_are_not_hidden():
    logits, labels = classified()
    loss = jax.jit(get_loss("ce_dice"))
    for bad in (4, 255):
        wrong = np.array(labels)
        wrong[0, 0, 0, 0] = bad
        assert jnp.isnan(loss(logits, jnp.asarray(wrong)))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("background", [False, True])
def test_losses_are_monais(background):
    torch = pytest.importorskip("torch")
    monai = pytest.importorskip("monai.losses")

    def channels_first(a):
        return torch.from_numpy(np.moveaxis(np.array(a, np.float32), -1, 1).copy())

    smooth = {"smooth_nr": 1e-5, "smooth_dr": 1e-5}
    logits, masks = labelled()
    # Their Dice has the smoothing of numerator and denominator as ours has it.
    parts = jax.jit(get_loss("bce_tversky", labels=3).with_components)(logits, masks)[1]
    z, y = channels_first(logits), channels_first(masks)
    found = monai.DiceLoss(sigmoid=True, **smooth)(z, y)
    np.testing.assert_allclose(parts["dice"], found, rtol=2e-6)
    tversky = {"alpha": 0.3, "beta": 0.7, **smooth}
    found = monai.TverskyLoss(sigmoid=True, **tversky)(z, y)
    np.testing.assert_allclose(parts["tversky"], found, rtol=2e-6)
    found = torch.nn.functional.binary_cross_entropy_with_logits(z, y)
    np.testing.assert_allclose(parts["bce"], found, rtol=2e-6)
    logits, labels = classified()
    loss = ClassLoss(name="all", ce_weight=1.0, dice_weight=1.0, include_background=background)
    value, parts = jax.jit(loss.with_components)(logits, labels)
    options = {"softmax": True, "to_onehot_y": True, "include_background": background}
    z, y = channels_first(logits), channels_first(labels[..., None])
    found = monai.DiceCELoss(**options, **smooth)(z, y)
    np.testing.assert_allclose(value, found, rtol=2e-6)
    found = monai.TverskyLoss(**options, **tversky)(z, y)
    np.testing.assert_allclose(parts["tversky"], found, rtol=2e-6)


def test_refusals():
    logits, masks = labelled()
    classes, labels = classified()
    cases = [
        (lambda: get_loss("bce_dice", labels=3)(logits, masks[..., :2]), "for 3 labels"),
        (lambda: get_loss("bce_dice", labels=2)(logits, masks), "for 2 labels"),
        (lambda: get_loss("bce_dice", labels=0), "Loss.labels is 0"),
        (lambda: get_loss("ce_dice", labels=3), "'ce_dice' is of classes"),
        (
            lambda: dataclasses.replace(get_loss("dice", labels=2), label_weights=(1.0,)),
            "one weight per label",
        ),
        (
            lambda: dataclasses.replace(get_loss("dice", labels=2), label_weights=(0.0, 0.0)),
            "sum of Loss.label_weights",
        ),
        (lambda: ClassLoss(name="nothing"), "has no part"),
        (lambda: ClassLoss(name="x", ce_weight=-1.0), "ClassLoss.ce_weight is -1.0"),
        (lambda: get_loss("ce")(classes, labels[:, 1:]), "do not fit labels"),
        (lambda: get_loss("ce")(classes[..., :1], labels), "one channel per class"),
        (lambda: Distillation(task=get_loss("ce"), ref=True), "'ce' is one of classes"),
        (lambda: losses.class_divergence(classes, logits), "a teacher's of shape"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
