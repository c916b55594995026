"""The three products of a window against loops over its definition, on both kinds of back end."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fp4jax.ops.convolution import products as windows
from fp4jax.ops.convolution.products import Window

WINDOWS = {
    "1d": Window((6,), (6,), (3,), (1,), (1,), (1,)),
    "2d stride 2": Window((8, 7), (4, 3), (4, 3), (2, 2), (1, 1), (1, 0)),
    "3d": Window((4, 3, 5), (3, 3, 2), (2, 1, 3), (1, 1, 2), (1, 1, 1), (0, 0, 1)),
    "dilated": Window((9, 8), (5, 8), (3, 2), (1, 1), (2, 3), (0, 2)),
    # all taps fall on one phase: dilation and stride have a common factor
    "dilation 2, stride 2": Window((10,), (4,), (3,), (2,), (2,), (1,)),
    "dilation 2, stride 4": Window((13,), (3,), (3,), (4,), (2,), (1,)),
    "dilation 3, stride 2": Window((12,), (4,), (3,), (2,), (3,), (2,)),
    # phases without taps
    "stride > kernel": Window((10, 9), (4, 2), (2, 1), (3, 4), (1, 1), (0, -1)),
    "negative padding": Window((8, 9), (3, 4), (2, 3), (2, 1), (1, 1), (-2, -1)),
    "more padding than kernel": Window((3,), (5,), (2,), (2,), (1,), (4,)),
    "groups": Window((6, 5), (3, 5), (3, 2), (2, 1), (1, 2), (1, 1), groups=2),
    "image not covered": Window((12,), (2,), (2,), (2,), (1,), (3,)),
    "one point": Window((1,), (1,), (1,), (1,), (1,), (0,)),
    "empty grid": Window((2,), (0,), (4,), (1,), (1,), (0,)),
    "empty grid, stride > kernel": Window((2,), (0,), (1,), (2,), (1,), (-1,)),
    "empty image": Window((0,), (3,), (2,), (1,), (1,), (2,)),
}
N, IN, OUT = 2, 4, 6

every_window = pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS.keys())


@pytest.fixture(params=["cpu", "accelerator"])
def back_end(request, monkeypatch):
    """Runs a test with both implementations; these are called eagerly, so nothing is cached."""
    monkeypatch.setattr(windows, "on_cpu", lambda: request.param == "cpu")


def integers(seed: int, *shape: int) -> jax.Array:
    """Small integers as float32: every sum below is exact, in any order."""
    return jnp.asarray(np.random.default_rng(seed).integers(-4, 5, shape), jnp.float32)


def data(window: Window, channels=(IN, OUT)):
    """image, grid, kernel."""
    image, grid = channels
    return (
        integers(0, N, *window.image, image),
        integers(1, N, *window.grid, grid),
        integers(2, *window.taps, image // window.groups, grid),
    )


def covered(window: Window):
    """(grid point, tap, image point) for each pair whose image point exists."""
    for q, t in itertools.product(np.ndindex(window.grid), np.ndindex(window.taps)):
        i = tuple(
            np.array(q) * window.stride + np.array(t) * window.dilation - np.array(window.low)
        )
        if all(0 <= a < size for a, size in zip(i, window.image, strict=True)):
            yield q, t, i


def by_group(window: Window):
    """(image channels, grid channels) that a group links."""
    i, o = IN // window.groups, OUT // window.groups
    for group in range(window.groups):
        yield slice(group * i, (group + 1) * i), slice(group * o, (group + 1) * o)


@every_window
def test_gather_is_its_definition(window):
    image, grid, kernel = data(window)
    expected = np.zeros(grid.shape, np.float32)
    for (q, t, i), (c, o) in itertools.product(covered(window), by_group(window)):
        expected[:, *q, o] += image[:, *i, c] @ kernel[*t, :, o]
    actual = windows.gather(image, kernel, window=window)
    np.testing.assert_array_equal(actual, expected, strict=True)


@every_window
@pytest.mark.usefixtures("back_end")
def test_scatter_is_its_definition(window):
    image, grid, kernel = data(window)
    expected = np.zeros(image.shape, np.float32)
    for (q, t, i), (c, o) in itertools.product(covered(window), by_group(window)):
        expected[:, *i, c] += grid[:, *q, o] @ kernel[*t, :, o].T
    actual = windows.scatter(grid, kernel, window=window)
    np.testing.assert_array_equal(actual, expected, strict=True)


@every_window
def test_kernel_gradient_is_its_definition(window):
    image, grid, kernel = data(window)
    expected = np.zeros(kernel.shape, np.float32)
    for (q, t, i), (c, o) in itertools.product(covered(window), by_group(window)):
        expected[*t, :, o] += image[:, *i, c].T @ grid[:, *q, o]
    actual = windows.kernel_gradient(image, grid, window=window)
    np.testing.assert_array_equal(actual, expected, strict=True)


@every_window
@pytest.mark.usefixtures("back_end")
def test_map_taps_shows_what_each_tap_covers(window):
    image, _, _ = data(window)
    expected = np.zeros((*window.taps, N, *window.grid, IN), np.float32)
    for q, t, i in covered(window):
        expected[*t, :, *q] = image[:, *i]
    views = windows.map_taps(lambda view, t: view, image, window)
    np.testing.assert_array_equal(
        views, expected.reshape(window.number_of_taps, *expected.shape[window.ndim :])
    )
    taps = windows.map_taps(lambda view, t: t, image, window)
    np.testing.assert_array_equal(taps, np.arange(window.number_of_taps))


@every_window
@pytest.mark.usefixtures("back_end")
def test_products_are_adjoint(window):
    """<gather(image, kernel), grid> = <image, scatter(grid, kernel)> = <kernel, gradient>."""
    image, grid, kernel = data(window)
    gathered = windows.gather(image, kernel, window=window)
    scattered = windows.scatter(grid, kernel, window=window)
    gradient = windows.kernel_gradient(image, grid, window=window)
    product = np.vdot(gathered, grid)
    assert product == np.vdot(image, scattered) == np.vdot(kernel, gradient)
    assert product != 0 or 0 in window.grid + window.image


@every_window
@pytest.mark.parametrize("channels", ["few", "wide"])
def test_shortcuts_of_the_cpu(window, channels, monkeypatch):
    """Few image channels or many grid channels go other ways than test_*_is_its_definition."""
    if window.groups > 1:
        pytest.skip("shortcuts are for one group")
    taps = window.number_of_taps
    pair = (2, 2 * taps) if channels == "few" else (128 // taps + 1, 128)
    image, grid, kernel = data(window, pair)
    assert windows._few_channels(window, kernel.shape) == (channels == "few")
    monkeypatch.setattr(windows, "MANY_POSITIONS", 0)
    assert channels == "few" or windows._wide_grid(window, kernel.shape, positions=0)
    by_cpu, elsewhere = [], []
    for back_end, results in (("cpu", by_cpu), ("gpu", elsewhere)):
        monkeypatch.setattr(windows, "on_cpu", lambda back_end=back_end: back_end == "cpu")
        results.append(windows.scatter(grid, kernel, window=window))
        results.append(windows.kernel_gradient(image, grid, window=window))
    for ours, theirs in zip(by_cpu, elsewhere, strict=True):
        np.testing.assert_array_equal(ours, theirs, strict=True)


@every_window
def test_scatter_has_one_meaning(window):
    """The implementations for CPU and for accelerators, called directly, and their gradients."""
    image, grid, kernel = data(window)

    def dilated(grid, kernel):
        transposed = windows._swap_channels(kernel, window.groups)
        return windows._scatter_dilated(grid, transposed, window, None, None)

    by_phase = functools.partial(windows.scatter, window=window)
    for ours, theirs in zip(
        *((y, *vjp(image)) for y, vjp in (jax.vjp(f, grid, kernel) for f in (by_phase, dilated))),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs, strict=True)


@pytest.mark.usefixtures("back_end")
@pytest.mark.parametrize("channels", [(IN, OUT), (1, 16), (7, 128)])
def test_preferred_element_type(channels):
    window = WINDOWS["stride > kernel"]
    image, grid, kernel = (a.astype(jnp.bfloat16) for a in data(window, channels))
    for product, operands in (
        (windows.gather, (image, kernel)),
        (windows.scatter, (grid, kernel)),
        (windows.kernel_gradient, (image, grid)),
    ):
        y = product(*operands, window=window, preferred_element_type=jnp.float32)
        exact = product(*(a.astype(jnp.float32) for a in operands), window=window)
        np.testing.assert_array_equal(y, exact, strict=True)
        assert product(*operands, window=window).dtype == jnp.bfloat16


@every_window
def test_high_padding_makes_the_grid(window):
    for image, grid, taps, stride, dilation, low, high in zip(
        window.image,
        window.grid,
        window.taps,
        window.stride,
        window.dilation,
        window.low,
        window.high,
        strict=True,
    ):
        room = low + image + high - ((taps - 1) * dilation + 1)
        assert max(0, room // stride + 1) == grid
    assert window.number_of_taps == np.prod(window.taps)
