"""Whole volumes, mirroring, several models: arrays in, arrays out."""

import numpy as np
import pytest

from fp4jax.inference import (
    mean_probabilities,
    mirrored,
    segment_volume,
    sliding_window,
    to_masks,
    to_probabilities,
)

WINDOW = (6, 6, 4)


def volume(seed: int = 0) -> np.ndarray:
    """Two channels, 0 outside of a box."""
    image = np.zeros((14, 12, 9, 2), np.float32)
    image[2:13, 1:10, 3:9] = np.random.default_rng(seed).normal(size=(11, 9, 6, 2))
    return image


def slanted(windows):
    """Two logits of a window that depend on where in it a voxel lies."""
    for x in windows:
        ramp = np.linspace(-1, 1, x.shape[0], dtype=np.float32)
        yield x + ramp.reshape(-1, *[1] * (x.ndim - 1))


BOX = (slice(2, 13), slice(1, 10), slice(3, 9))


def test_a_volume_is_segmented_in_its_box():
    image, seen = volume(), []
    found = segment_volume(
        slanted, image, WINDOW, overlap=0.25, progress=lambda *at: seen.append(at)
    )
    logits = sliding_window(slanted, image[BOX], WINDOW, overlap=0.25)
    assert found.masks.dtype == np.uint8
    assert found.probabilities.dtype == np.float32
    np.testing.assert_array_equal(
        found.probabilities[BOX], to_probabilities(logits, exclusive=False)
    )
    np.testing.assert_array_equal(found.masks, found.probabilities > 0.5)
    outside = np.ones(image.shape[:3], bool)
    outside[BOX] = False
    assert not found.probabilities[outside].any()
    assert seen[-1][0] == seen[-1][1] == len(seen)
    # Nothing but zeros is a volume too.
    assert segment_volume(slanted, np.zeros_like(image), WINDOW).masks.shape == image.shape


def test_slices_are_segmented_one_by_one():
    image = volume()
    found = segment_volume(slanted, image, (6, 5), overlap=0.5)
    for z in range(3, 9):
        logits = sliding_window(slanted, image[2:13, 1:10, z], (6, 5), overlap=0.5)
        np.testing.assert_array_equal(
            found.probabilities[2:13, 1:10, z], to_probabilities(logits, exclusive=False)
        )


def test_classes_exclude_each_other():
    """The first logit is the background's."""
    image = volume()

    def three(windows):
        return (np.concatenate([x, -x[..., :1]], -1) for x in windows)

    found = segment_volume(three, image, WINDOW, exclusive=True)
    assert found.masks.shape == found.probabilities.shape == image.shape
    logits = sliding_window(three, image[BOX], WINDOW)
    classes = np.argmax(logits, -1)
    np.testing.assert_array_equal(found.masks[BOX][..., 0], classes == 1)
    np.testing.assert_array_equal(found.masks[BOX][..., 1], classes == 2)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    np.testing.assert_allclose(found.probabilities[BOX], p[..., 1:], rtol=1e-6)


def test_mirroring_is_the_mean_over_flips():
    image = volume()[BOX][:6, :6, :4]
    (found,) = mirrored(slanted, (0, 2))([image])
    # The ramp cancels.
    np.testing.assert_allclose(found, image, atol=1e-6)
    several = list(mirrored(slanted, (0,))(iter([image, 2 * image, -image])))
    np.testing.assert_allclose(several[1], 2 * image, atol=1e-6)
    (alone,) = mirrored(slanted, (0,))([2 * image])
    np.testing.assert_array_equal(alone, several[1])
    assert mirrored(slanted, ()) is slanted
    whole = segment_volume(slanted, volume(), WINDOW, mirror=(0, 1, 2))
    expected = sliding_window(mirrored(slanted, (0, 1, 2)), volume()[BOX], WINDOW)
    np.testing.assert_array_equal(whole.masks[BOX], expected > 0)
    for axes, message in (((0, 0), "each once"), ((-1,), "0 for the first"), ((3,), "0 to 2")):
        with pytest.raises(ValueError, match=message):
            list(mirrored(slanted, axes)([image]))


def test_several_models_agree_on_the_mean_of_their_probabilities():
    image = volume()

    def doubled(windows):
        return (3 * x for x in windows)

    one, other, both = (
        segment_volume(predict, image, WINDOW).probabilities
        for predict in (slanted, doubled, (slanted, doubled))
    )
    np.testing.assert_array_equal(both, (one + other) / 2)
    with pytest.raises(ValueError, match="at least one"):
        segment_volume((), image, WINDOW)
    with pytest.raises(ValueError, match="same regions"):
        mean_probabilities([one, one[..., :1]])


def test_what_has_diverged_is_no_mask():
    for exclusive in (False, True):
        with pytest.raises(ValueError, match="are NaN"):
            to_probabilities(np.array([[0.0, np.nan]], np.float32), exclusive=exclusive)
    tied = np.array([[0.5, 0.5], [0.2, 0.8]], np.float32)
    assert to_masks(tied, exclusive=False).tolist() == [[0, 0], [0, 1]]
    assert to_masks(tied, exclusive=True).tolist() == [[0], [1]]
