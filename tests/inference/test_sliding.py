import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fp4jax.inference import Alone, sliding_window, window_starts, window_weights
from tests.checks import assert_same_sums

WINDOW = (8, 8, 4)


@pytest.fixture(scope="module")
def network():
    """A convolution with zero padding, so that a window's border is worse than its centre."""
    generator = np.random.default_rng(0)
    kernel = jnp.asarray(generator.normal(size=(3, 3, 3, 2, 3)), jnp.float32)

    @jax.jit
    def predict(x):
        z = jax.lax.conv_general_dilated(
            x, kernel, (1, 1, 1), "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
        )
        return jnp.tanh(z)

    return predict


def each(predict):
    """As ``sliding_window`` takes it."""
    return functools.partial(Alone(lambda _, x: predict(x)).each, None)


def image_of(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=(*shape, 2)).astype(np.float32)


def by_hand(predict, image, window, step, weights):
    """Sums over windows, float64; for images at least as large as the window."""
    total, norm = 0.0, 0.0
    for corner in np.ndindex(*(s - w + 1 for s, w in zip(image.shape, window, strict=False))):
        ends = [c + w for c, w in zip(corner, window, strict=True)]
        if any(c % step and e != s for c, e, s in zip(corner, ends, image.shape, strict=False)):
            continue
        place = tuple(map(slice, corner, ends))
        z = np.asarray(predict(jnp.asarray(image[place][None])), np.float64)[0]
        part, w = np.zeros((*image.shape[:-1], 3)), np.zeros((*image.shape[:-1], 1))
        part[place], w[place] = z * weights, weights
        total, norm = total + part, norm + w
    return total / norm


def test_one_window_is_plain_inference(network):
    image = image_of(*WINDOW)
    expected = np.asarray(network(jnp.asarray(image[None])))[0]
    assert_same_sums(sliding_window(each(network), image, WINDOW), expected)
    # Smaller than the window: zeros around it, and the odd one behind.
    small = image[:5, :7, :1]
    padded = np.pad(small, ((1, 2), (0, 1), (1, 2), (0, 0)))
    expected = np.asarray(network(jnp.asarray(padded[None])))[0][1:6, :7, 1:2]
    assert_same_sums(sliding_window(each(network), small, WINDOW), expected)


@pytest.mark.parametrize("weighting", ["gaussian", "constant"])
def test_windows_are_averaged(network, weighting):
    image = image_of(13, 10, 4)
    weights = window_weights(WINDOW, weighting).astype(np.float64)
    found = sliding_window(each(network), image, WINDOW, weighting=weighting)
    assert found.dtype == np.float32
    # The last axis has one window.
    np.testing.assert_allclose(found, by_hand(network, image, WINDOW, 4, weights), atol=1e-5)


def test_images_of_all_sizes_compile_once(network):
    traced, seen = [], []

    def forward(_, x):
        traced.append(x.shape)
        return network(x)

    predict = functools.partial(Alone(forward).each, None)
    found = [
        sliding_window(predict, image_of(*shape), WINDOW, progress=lambda *at: seen.append(at))
        for shape in ((13, 10, 7), (17, 8, 4), (8, 8, 4), (13, 10, 7))
    ]
    assert traced == [(1, *WINDOW, 2)]
    # 3 x 2 x 3 windows, then 4 x 1 x 1, then 1.
    assert seen[:23] == [*((n, 18) for n in range(1, 19)), *((n, 4) for n in range(1, 5)), (1, 1)]
    np.testing.assert_array_equal(found[0], found[3])


def test_images_of_rank_2_and_overlap_of_each_axis():
    def predict(x):
        return x

    image = image_of(11, 9)
    np.testing.assert_allclose(sliding_window(predict, image, (4, 6)), image, rtol=1e-5)
    calls = []
    slices = image_of(9, 9, 6)
    options = {"overlap": (0.5, 0.5, 0.0), "progress": lambda *at: calls.append(at)}
    found = sliding_window(predict, slices, (6, 6, 1), **options)
    np.testing.assert_allclose(found, slices, rtol=1e-5)
    assert calls[-1] == (24, 24)
    nan = sliding_window(predict, np.where(image > 2, np.nan, image), (4, 4))
    assert np.isnan(nan).any()


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_sliding_windows_are_monais(network):
    inferers = pytest.importorskip("monai.inferers")
    torch = pytest.importorskip("torch")
    from monai.data.utils import compute_importance_map, dense_patch_slices

    def theirs(x):
        y = network(jnp.asarray(x.numpy().transpose(0, 2, 3, 4, 1)))
        return torch.from_numpy(np.array(y).transpose(0, 4, 1, 2, 3))

    for mode, overlap, scale in (
        ("gaussian", 0.5, 0.125),
        ("constant", 0.25, 0.125),
        ("gaussian", 0.8, 0.25),
    ):
        for shape in ((13, 10, 7), (5, 19, 4)):
            image = image_of(*shape)
            expected = inferers.sliding_window_inference(
                torch.from_numpy(image.transpose(3, 0, 1, 2)[None]),
                WINDOW,
                4,
                theirs,
                overlap=overlap,
                mode=mode,
                sigma_scale=scale,
            )
            found = sliding_window(
                each(network), image, WINDOW, overlap=overlap, weighting=mode, sigma_scale=scale
            )
            expected = expected[0].numpy().transpose(1, 2, 3, 0)
            np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    for size, window, overlap in ((155, 64, 0.5), (21, 10, 0.8), (20, 10, 0.7), (11, 10, 0.99)):
        step = max(int(window * (1 - overlap)), 1)
        places = dense_patch_slices((size,), (window,), (step,))
        assert window_starts(size, window, overlap) == [place[0].start for place in places]
    for window in ((8, 8, 4), (16, 5)):
        expected = compute_importance_map(window, mode="gaussian")
        np.testing.assert_allclose(window_weights(window)[..., 0], expected, rtol=1e-6)


def test_refusals():
    image = np.zeros((8, 8, 4, 2), np.float32)
    cases = [
        ((image[None], (8, 8, 4)), {}, "without an axis of batches"),
        ((image, (8, 8)), {}, "give 3 positive numbers"),
        ((image, (8, 0, 4)), {}, "give 3 positive numbers"),
        ((image, (8, 8, 4)), {"overlap": 1.0}, "overlap is"),
        ((image, (8, 8, 4)), {"overlap": (0.5, 0.5)}, "one for each axis"),
        ((image, (8, 8, 4)), {"weighting": "hann"}, "gaussian, constant"),
        ((image, (8, 8, 4)), {"sigma_scale": 0.0}, "sigma_scale is 0.0"),
    ]
    for arguments, options, message in cases:
        with pytest.raises(ValueError, match=message):
            sliding_window(lambda x: x, *arguments, **options)
    with pytest.raises(ValueError, match=r"returned an array of shape \(8, 8, 4\)"):
        sliding_window(lambda windows: (x[..., 0] for x in windows), image, (8, 8, 4))
    with pytest.raises(ValueError, match="shorter"):
        sliding_window(lambda windows: list(windows)[1:], image, (4, 8, 4))
