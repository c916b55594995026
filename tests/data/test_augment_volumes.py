"""Augmentation of patches: exact flips, scipy's resampling, reproducible draws, its ranges."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fp4jax.data import augment_volumes as av
from fp4jax.data.augment import keys as fold
from fp4jax.data.resample import warp

keys = jax.jit(fold)

ALL = av.Ranges(warp=0.5, noise=0.5, gamma=0.5)
STILL = av.Ranges(flip=0.0, gain=0.0, shift=0.0)


def patches(*shape, channels=2, labels=3, seed=0):
    generator = np.random.default_rng(seed)
    images = generator.normal(size=(*shape, channels)).astype(np.float32)
    targets = (generator.random((*shape, labels)) < 0.3).astype(np.uint8)
    return jnp.asarray(images), jnp.asarray(targets)


@functools.partial(jax.jit, static_argnums=(1, 2))
def draws(keys, shape, ranges):
    return jax.vmap(lambda key: av.draw(key, shape, ranges))(keys)


def rotation(degrees):
    """R_0 R_1 R_2 in float64."""
    product = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        i, j = [(1, 2), (2, 0), (0, 1)][axis]
        one = np.eye(3)
        one[i, i] = one[j, j] = np.cos(angle)
        one[i, j], one[j, i] = -np.sin(angle), np.sin(angle)
        product = product @ one
    return product


def scipys(volume, matrix, order):
    ndimage = pytest.importorskip("scipy.ndimage")
    centre = (np.array(volume.shape) - 1) / 2
    # Twice two voxels of zeros: scipy does not interpolate between the border and beyond.
    padded = np.pad(volume.astype(np.float64), 2)
    offset = centre + 2 - matrix @ (centre + 2)
    moved = ndimage.affine_transform(padded, matrix, offset, order=order)
    return moved[tuple(slice(2, -2) for _ in volume.shape)]


def test_rotation_and_zoom_are_scipys():
    (image,), (target,) = patches(1, 14, 12, 9)
    resample = jax.jit(warp)
    for degrees, zoom in (([20, -35, 10], 1.2), ([0, 0, 90], 1.0), ([-5, 15, 30], 0.8)):
        found = resample(image, target, jnp.array(degrees, jnp.float32), jnp.float32(zoom))
        matrix = rotation(degrees) / zoom
        for c in range(2):
            expected = scipys(np.asarray(image)[..., c], matrix, 1)
            np.testing.assert_allclose(found[0][..., c], expected, atol=3e-5)
        for k in range(3):
            expected = scipys(np.asarray(target)[..., k], matrix, 0)
            # A voxel in the middle between two may fall to either.
            assert np.mean(np.asarray(found[1])[..., k] != expected) < 2e-3
        assert found[1].dtype == jnp.uint8


def test_one_angle_turns_the_plane():
    (image,), (target,) = patches(1, 14, 12, 9)
    angle, zoom = jnp.array([25.0]), jnp.float32(1.1)
    resample = jax.jit(warp)
    slab, slab_target = resample(image, target, angle, zoom)
    matrix = rotation([0, 0, 25.0])[:2, :2] / 1.1
    for z in (0, 8):
        expected = scipys(np.asarray(image)[:, :, z, 1], matrix, 1)
        np.testing.assert_allclose(slab[:, :, z, 1], expected, atol=3e-5)
        # Slices alone and slabs of depth 1 are the same.
        flat = resample(image[:, :, z], target[:, :, z], angle, zoom)
        np.testing.assert_allclose(flat[0], slab[:, :, z], atol=1e-6)
        np.testing.assert_array_equal(flat[1], slab_target[:, :, z])
    nothing = resample(image, target, jnp.zeros(3), jnp.float32(1))
    np.testing.assert_array_equal(nothing[0], image)
    np.testing.assert_array_equal(nothing[1], target)
    with pytest.raises(ValueError, match="2 angles"):
        warp(image, target, jnp.zeros(2), zoom)
    with pytest.raises(ValueError, match="give 3 for one of"):
        warp(image[:, :, 0], target[:, :, 0], jnp.zeros(3), zoom)


def test_the_default_flips_and_changes_intensities_alone():
    images, targets = patches(16, 5, 4, 3)
    key = keys(1, 2, jnp.arange(16))
    found, found_targets = jax.jit(av.augment)(images, targets, key)
    params = draws(key, images.shape[1:], av.MONAI)
    assert params.warp is params.noise is params.gamma is None
    flips = np.asarray(params.flips)
    assert len({tuple(f) for f in flips}) > 4
    for i in range(16):
        axes = [axis for axis in range(3) if flips[i, axis]]
        flipped, target = (np.flip(np.asarray(a[i]), axes) for a in (images, targets))
        expected = flipped * np.asarray(params.gain[i]) + np.asarray(params.shift[i])
        np.testing.assert_allclose(found[i], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found_targets[i], target)


def test_draws_keep_to_their_ranges():
    ranges = av.Ranges(warp=0.3, degrees=20.0, zoom=(0.5, 2.0), noise=0.2, noise_sd=0.4, gamma=0.6)
    params = draws(keys(0, 0, jnp.arange(4000)), (8, 8, 8, 2), ranges)
    sd = np.asarray(params.noise.sd)
    shares = {
        0.5: params.flips,
        0.3: params.warp.applies,
        0.2: sd > 0,
        0.6: params.gamma.applies,
    }
    for share, values in shares.items():
        assert abs(np.mean(values) - share) < 0.03
    limits = {
        (0.9, 1.1): params.gain,
        (-0.1, 0.1): params.shift,
        (-20, 20): params.warp.angles,
        (np.log(0.5), np.log(2)): np.log(params.warp.zoom),
        (0, 0.4): sd[sd > 0],
        (np.log(0.7), np.log(1.5)): np.log(params.gamma.exponent),
    }
    for (low, high), values in limits.items():
        width = high - low
        assert low - 1e-6 < np.min(values) < low + 0.02 * width
        assert high - 0.02 * width < np.max(values) < high + 1e-6
        np.testing.assert_allclose(np.mean(values), (low + high) / 2, atol=0.04 * width)
    assert params.warp.angles.shape == (4000, 3)
    # Slices, slabs that are one voxel deep, and on demand.
    in_plane = dataclasses.replace(ALL, in_plane=True)
    for shape, ranges in (((8, 8, 2), ALL), ((8, 8, 1, 2), ALL), ((8, 8, 8, 2), in_plane)):
        angles = jax.eval_shape(
            lambda key, s=shape, r=ranges: av.draw(key, s, r).warp.angles, jax.random.key(0)
        )
        assert angles.shape == (1,)


def test_noise_and_gamma():
    images, targets = patches(4, 16, 16, 8)
    images = images.at[..., 1].set(3.0)
    for ranges in (dataclasses.replace(STILL, noise=1.0), dataclasses.replace(STILL, gamma=1.0)):
        key = keys(0, 0, jnp.arange(4))
        found, same = jax.jit(av.augment, static_argnums=3)(images, targets, key, ranges)
        np.testing.assert_array_equal(same, targets)
        params = draws(key, images.shape[1:], ranges)
        if ranges.noise:
            noise = np.asarray(found - images)
            np.testing.assert_allclose(noise.std((1, 2, 3, 4)), params.noise.sd, rtol=0.05)
            assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.05
            continue
        x = np.asarray(images, np.float64)[..., 0]
        low, high = (f(x, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
        exponent = np.asarray(params.gamma.exponent)[:, 0].reshape(4, 1, 1, 1)
        expected = low + (high - low) * ((x - low) / (high - low)) ** exponent
        np.testing.assert_allclose(found[..., 0], expected, atol=1e-4)
        # A constant channel has no range to bend.
        np.testing.assert_array_equal(found[..., 1], 3.0)


@pytest.mark.parametrize("shape", [(6, 7, 5), (8, 6)])
def test_a_patch_depends_on_its_key_alone(shape):
    images, targets = patches(6, *shape)
    augment = jax.jit(lambda x, y, k: av.augment(x, y, k, ALL))
    full = augment(images, targets, keys(7, jnp.int32(2), jnp.arange(6)))
    order = np.array([4, 1, 5, 0, 3, 2])
    part = augment(images[order], targets[order], keys(7, 2, jnp.arange(6)[order]))
    # Accelerators take all patches at once.
    params = draws(keys(7, 2, jnp.arange(6)), images.shape[1:], ALL)
    assert params.warp.applies.any()
    at_once = jax.jit(jax.vmap(av.apply))(images, targets, params)
    for a, b, c in zip(full, part, at_once, strict=True):
        np.testing.assert_array_equal(np.asarray(a)[order], b)
        np.testing.assert_allclose(a, c, rtol=1e-5, atol=1e-5)
    assert np.isin(full[1], (0, 1)).all()


def test_dtypes_and_other_devices():
    images, targets = patches(2, 8, 8, 4)
    augment = jax.jit(lambda x, y, k: av.augment(x, y, k, ALL))
    key = keys(0, 0, jnp.arange(2))
    shapes = jax.eval_shape(augment, images.astype(jnp.bfloat16), targets.astype(bool), key)
    assert (shapes[0].dtype, shapes[1].dtype) == (jnp.bfloat16, jnp.bool_)
    jax.export.export(augment, platforms=["cuda"])(images, targets, key)


def test_refusals():
    images, targets = patches(2, 8, 8, 4)
    with pytest.raises(ValueError, match="give images"):
        av.augment(images, targets[:, :7], keys(0, 0, jnp.arange(2)))
    for options, message in (
        ({"flip": 1.5}, "Ranges.flip is 1.5; give a probability"),
        ({"noise": -0.1}, "Ranges.noise is -0.1"),
        ({"gain": float("nan")}, "Ranges.gain is nan"),
        ({"zoom": (1.2, 0.8)}, "Ranges.zoom is"),
        ({"gamma_exponent": (0.0, 1.5)}, "factor above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            av.Ranges(**options)
