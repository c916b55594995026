"""Augmentation: the reference's grey levels, reproducible draws, one compilation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fp4jax.data import augment as aug


def parameters(**changes):
    fields = {
        "flip_horizontal": False,
        "flip_vertical": False,
        "contrast": 1.0,
        "brightness": 0.0,
        "warp": False,
        "shift": [0.0, 0.0],
        "scale": [1.0, 1.0],
        "angle": 0.0,
    } | changes
    booleans = ("flip_horizontal", "flip_vertical", "warp")
    return aug.Augmentation(
        **{
            name: jnp.asarray(value, jnp.bool_ if name in booleans else jnp.float32)
            for name, value in fields.items()
        }
    )


@pytest.fixture(scope="module")
def transforms(golden):
    return golden("ref_transforms.npz")


@pytest.fixture(scope="module")
def sample(transforms):
    return jnp.asarray(transforms["img_bgr_uint8"]), jnp.asarray(transforms["mask_uint8"])


def batch(n=6, size=32, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, size, size, 3), np.uint8)
    masks = rng.integers(0, 2, (n, size, size), np.uint8)
    return jnp.asarray(images), jnp.asarray(masks)


def test_nothing_changes_nothing(sample):
    image, mask = jax.jit(aug.apply)(*sample, parameters())
    np.testing.assert_array_equal(image, sample[0])
    np.testing.assert_array_equal(mask, sample[1])


def test_flips(sample, transforms):
    for name, axis in (("horizontal", 1), ("vertical", 0)):
        image, mask = aug.apply(*sample, parameters(**{f"flip_{name}": True}))
        np.testing.assert_array_equal(image, transforms[f"{name[0]}flip"])
        np.testing.assert_array_equal(mask, np.flip(sample[1], axis))


@pytest.mark.parametrize("case", range(4))
@pytest.mark.parametrize("wrap", [jax.jit, lambda f: f])
def test_brightness_contrast(sample, transforms, case, wrap):
    alpha, beta = transforms[f"bc{case}.alpha_beta"]
    params = parameters(contrast=alpha, brightness=beta * 255)
    image, mask = wrap(aug.apply)(*sample, params)
    np.testing.assert_array_equal(image, transforms[f"bc{case}.out"])
    np.testing.assert_array_equal(mask, sample[1])


@pytest.mark.parametrize("case", range(4))
@pytest.mark.parametrize("wrap", [jax.jit, lambda f: f])
def test_shift_scale_rotate(sample, transforms, case, wrap):
    tx, ty, sx, sy, degrees = transforms[f"ssr{case}.tx_ty_sx_sy_deg"]
    shift = [(t + 0.5 * np.sign(t)) / 256 for t in (tx, ty)]  # truncated to whole pixels
    params = parameters(warp=True, shift=shift, scale=[sx, sy], angle=degrees)
    image, mask = wrap(aug.apply)(*sample, params)
    difference = np.abs(np.asarray(image, np.int32) - transforms[f"ssr{case}.image"])
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3
    np.testing.assert_array_equal(mask, transforms[f"ssr{case}.mask"])


def test_flip_comes_before_warp(sample):
    params = {"warp": True, "shift": [0.05, 0.02], "scale": [0.95, 1.08], "angle": 7.0}
    together, mask = aug.apply(*sample, parameters(flip_horizontal=True, **params))
    flipped = aug.apply(*sample, parameters(flip_horizontal=True))
    apart, apart_mask = aug.apply(*flipped, parameters(**params))
    np.testing.assert_array_equal(together, apart)
    np.testing.assert_array_equal(mask, apart_mask)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_channels_and_rectangles(channels):
    rng = np.random.default_rng(channels)
    image = jnp.asarray(rng.integers(0, 256, (24, 40, channels), np.uint8))
    mask = jnp.asarray(rng.integers(0, 2, (24, 40), np.uint8))
    params = parameters(warp=True, shift=[0.1, -0.1])  # 4 pixels right, 2 up
    moved, moved_mask = aug.apply(image, mask, params)
    expected, expected_mask = np.zeros_like(image), np.zeros_like(mask)
    expected[:-2, 4:], expected_mask[:-2, 4:] = image[2:, :-4], mask[2:, :-4]
    np.testing.assert_array_equal(moved, expected)
    np.testing.assert_array_equal(moved_mask, expected_mask)


def test_normalize(sample, transforms):
    expected = transforms["eval.image_chw"].transpose(1, 2, 0)
    np.testing.assert_allclose(aug.normalize(sample[0]), expected, rtol=0, atol=1e-6)
    half = aug.normalize(sample[0], jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), expected, rtol=2**-8, atol=1e-6)


def test_normalize_takes_any_number_of_channels():
    with pytest.raises(ValueError, match="4 channels, but 3 means"):
        aug.normalize(jnp.zeros((2, 2, 4), jnp.uint8), mean=(0.5,) * 3)
    same = np.unique(aug.normalize(jnp.full((2, 2, 4), 255, jnp.uint8)))
    np.testing.assert_allclose(same, [(1 - 0.449) / 0.226], rtol=1e-6)
    four = aug.normalize(jnp.zeros((2, 2, 4), jnp.uint8), mean=(0.5,) * 4, sd=(0.5,) * 4)
    np.testing.assert_array_equal(four, -1)


def test_draws_depend_on_seed_epoch_and_index_only():
    images, masks = batch()
    index = jnp.arange(6)
    augment = jax.jit(aug.augment)
    full = augment(images, masks, aug.keys(7, 2, index))
    again = augment(images, masks, aug.keys(7, jnp.int32(2), index))
    order = np.array([4, 1, 5])
    part = augment(images[order], masks[order], aug.keys(7, 2, index[order]))
    for one, two, three in zip(full, again, part, strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one[order], three)
    raw = jax.random.key_data
    for seed, epoch in ((8, 2), (7, 3)):
        assert (raw(aug.keys(seed, epoch, index)) != raw(aug.keys(7, 2, index))).any()


def test_vectorized_equals_the_loop():
    # augment's form on accelerators, where the loop over images would be slow.
    images, masks = batch(16)
    params = jax.vmap(aug.draw)(aug.keys(0, 0, jnp.arange(16)))
    assert params.warp.any()
    loop = jax.jit(aug.augment)(images, masks, aug.keys(0, 0, jnp.arange(16)))
    vectorized = jax.jit(jax.vmap(aug.apply))(images, masks, params)
    for one, two in zip(loop, vectorized, strict=True):
        np.testing.assert_array_equal(one, two)


def test_lowers_for_accelerators():
    images, masks = batch(2)
    exported = jax.export.export(jax.jit(aug.augment), platforms=["cuda"])
    assert exported(images, masks, aug.keys(0, 0, jnp.arange(2))).platforms == ("cuda",)


def test_compiles_once():
    step = jax.jit(lambda i, m, epoch, index: aug.augment(i, m, aug.keys(0, epoch, index)))
    images, masks = batch()
    for epoch in range(3):
        step(images, masks, jnp.int32(epoch), jnp.arange(6) + epoch)
    assert step._cache_size() == 1


def test_distribution_of_draws():
    draws = jax.jit(jax.vmap(aug.draw))(aug.keys(0, 0, jnp.arange(20000)))
    sd = 0.5 / 20000**0.5
    assert abs(draws.flip_horizontal.mean() - 0.5) < 4 * sd
    assert abs(draws.flip_vertical.mean() - 0.5) < 4 * sd
    adjusted = draws.contrast != 1
    assert abs(adjusted.mean() - 0.3) < 4 * sd
    np.testing.assert_array_equal(adjusted, draws.brightness != 0)
    assert abs(draws.warp.mean() - 0.3) < 4 * sd
    for values, low, high in (
        (draws.contrast[adjusted], 0.8, 1.2),
        (draws.brightness[adjusted], -51, 51),
        (draws.shift, -0.1, 0.1),
        (draws.scale, 0.9, 1.1),
        (draws.angle, -15, 15),
    ):
        width = high - low
        assert low - 1e-6 <= values.min() < low + 0.01 * width
        assert high - 0.01 * width < values.max() <= high + 1e-6
        assert abs(values.mean() - (low + high) / 2) < 0.02 * width
    flat = np.stack([draws.shift[:, 0], draws.shift[:, 1], *draws.scale.T, draws.angle])
    assert np.abs(np.corrcoef(flat) - np.eye(5)).max() < 0.04
