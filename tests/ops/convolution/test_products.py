"""The three products of a window against loops over its definition, in both platforms' forms."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fp4jax.ops.convolution import cpu, default, products as windows
from fp4jax.ops.convolution.geometry import Window
from fp4jax.ops.convolution.taps import columns, map_taps, overlap_add
from tests.accelerator import use_forms_of_accelerators
from tests.checks import diagonal

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


forms = pytest.mark.parametrize("form", [cpu, default], ids=["cpu", "accelerator"])
F32 = jnp.dtype(jnp.float32)


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
@forms
def test_products_are_their_definitions(window, form):
    image, grid, kernel = data(window)
    gathered, scattered, gradient = (np.zeros(a.shape, np.float32) for a in (grid, image, kernel))
    for (q, t, i), (c, o) in itertools.product(covered(window), by_group(window)):
        gathered[:, *q, o] += image[:, *i, c] @ kernel[*t, :, o]
        scattered[:, *i, c] += grid[:, *q, o] @ kernel[*t, :, o].T
        gradient[*t, :, o] += image[:, *i, c].T @ grid[:, *q, o]
    actual = three_products(form, window)(image, grid, kernel)
    for ours, expected in zip(actual, (gathered, scattered, gradient), strict=True):
        np.testing.assert_array_equal(ours, expected, strict=True)


def three_products(form, window: Window):
    """One program of the three, which is cheaper than three."""

    @jax.jit
    def products(image, grid, kernel):
        return (
            form.gather(image, kernel, window, None, F32),
            form.scatter(grid, kernel, window, None, F32),
            form.kernel_gradient(image, grid, window, None, F32),
        )

    return products


@pytest.mark.parametrize(("window", "accelerator"), diagonal(list(WINDOWS), [False, True]))
def test_map_taps_shows_what_each_tap_covers(window, accelerator, monkeypatch):
    window = WINDOWS[window]
    if accelerator:
        use_forms_of_accelerators(monkeypatch)
    image, _, _ = data(window)
    expected = np.zeros((*window.taps, N, *window.grid, IN), np.float32)
    for q, t, i in covered(window):
        expected[*t, :, *q] = image[:, *i]

    @jax.jit
    def views_and_taps(image):
        return [map_taps(f, image, window) for f in (lambda view, t: view, lambda view, t: t)]

    views, taps = views_and_taps(image)
    np.testing.assert_array_equal(
        views, expected.reshape(window.number_of_taps, *expected.shape[window.ndim :])
    )
    np.testing.assert_array_equal(taps, np.arange(window.number_of_taps))


@every_window
def test_overlap_add_is_the_adjoint_of_columns(window):
    image, _, _ = data(window)
    of_image = columns(image, window)
    parts = integers(3, *of_image.shape).reshape(N, *window.grid, *window.taps, IN)
    assert np.vdot(of_image, parts) == np.vdot(image, overlap_add(parts, window))


PRODUCTS = {
    "gather": (windows.gather, (0, 2)),
    "scatter": (windows.scatter, (1, 2)),
    "kernel_gradient": (windows.kernel_gradient, (0, 1)),
}


def product_of(name: str, window: Window):
    """A product, bilinear, and its operands."""
    product, which = PRODUCTS[name]
    operands = data(window)
    return lambda a, b: product(a, b, window=window), [operands[i] for i in which]


# Those of the others are the same functions of a window.
DERIVATIVES = ("3d", "dilation 2, stride 4", "stride > kernel", "negative padding", "groups")
DERIVATIVES += ("image not covered", "empty grid", "empty image")


@pytest.mark.parametrize(
    "window",
    [
        pytest.param(window, id=name, marks=[pytest.mark.slow] * (name not in DERIVATIVES))
        for name, window in WINDOWS.items()
    ],
)
def test_derivatives(window):
    """Forward, in reverse and again: of a bilinear product they are other products."""

    @jax.jit
    def checks():
        """Pairs of equal numbers, all exact."""
        pairs = []
        for name in PRODUCTS:
            product, (a, b) = product_of(name, window)
            da, db = integers(3, *a.shape), integers(4, *b.shape)
            y, dy = jax.jvp(product, (a, b), (da, db))
            pairs += [(y, product(a, b)), (dy, product(da, b) + product(a, db))]
            g = integers(5, *y.shape)
            gradients = lambda a, b, product=product, g=g: jax.vjp(product, a, b)[1](g)  # noqa: E731
            ga, gb = gradients(a, b)
            pairs += [(dot(g, product(da, b)), dot(ga, da)), (dot(g, product(a, db)), dot(gb, db))]
            _, (dga, dgb) = jax.jvp(gradients, (a, b), (da, db))
            both = dot(g, product(da, db))
            pairs += [(dot(dga, da), both), (dot(dgb, db), both)]
        return pairs

    for actual, expected in checks():
        np.testing.assert_array_equal(actual, expected, strict=True)


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return (a * b).sum()


@pytest.mark.parametrize(
    ("name", "axes", "window"),
    diagonal(list(PRODUCTS), [(0, None), (None, 0), (1, -1)], ["2d stride 2", "groups"]),
)
def test_vmap(name, axes, window):
    """Lanes of one operand or of both, and another axis around them."""
    product, operands = product_of(name, WINDOWS[window])
    lanes = [
        a if axis is None else jnp.moveaxis(integers(i, 3, 2, *a.shape), (0, 1), (axis, 0))
        for i, (a, axis) in enumerate(zip(operands, axes, strict=True))
    ]
    inner = [None if axis is None else axis - (axis == 1) for axis in axes]
    outer = [None if axis is None else int(axis == 0) for axis in axes]
    twice = jax.vmap(jax.vmap(product, inner), outer)
    actual = jax.jit(twice)(*lanes)

    def lane(a, axis, i, j):
        return a if axis is None else a.take(i, outer_axis(axis)).take(j, inner_axis(axis))

    outer_axis = lambda axis: int(axis == 0)  # noqa: E731
    inner_axis = lambda axis: axis - (axis == 1)  # noqa: E731
    for i, j in np.ndindex(actual.shape[:2]):
        one = [lane(a, axis, i, j) for a, axis in zip(lanes, axes, strict=True)]
        np.testing.assert_array_equal(actual[i, j], product(*one))


@pytest.mark.parametrize(("window", "channels"), diagonal(list(WINDOWS), ["few", "wide"]))
def test_shortcuts_of_the_cpu(window, channels, monkeypatch):
    """Few image channels or many grid channels go other ways than test_*_is_its_definition."""
    window = WINDOWS[window]
    if window.groups > 1:
        pytest.skip("shortcuts are for one group")
    taps = window.number_of_taps
    pair = (2, 2 * taps) if channels == "few" else (128 // taps + 1, 128)
    image, grid, kernel = data(window, pair)
    assert cpu.has_few_channels(window, kernel.shape) == (channels == "few")
    crossovers = dataclasses.replace(cpu.CROSSOVERS, many_positions=0)
    monkeypatch.setattr(cpu, "CROSSOVERS", crossovers)
    assert channels == "few" or cpu.has_wide_grid(window, kernel.shape, positions=0)
    ours, theirs = (three_products(form, window)(image, grid, kernel) for form in (cpu, default))
    for actual, expected in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(actual, expected, strict=True)


@pytest.mark.parametrize("channels", [(IN, OUT), (1, 16), (7, 128)])
@pytest.mark.parametrize("accelerator", [False, True])
@pytest.mark.parametrize("dtypes", [(jnp.bfloat16, jnp.bfloat16), (jnp.float32, jnp.bfloat16)])
def test_dtypes(channels, accelerator, dtypes, monkeypatch):
    """Sums in float32, of operands of one dtype or of two; the result in the first's by default."""
    if accelerator:
        use_forms_of_accelerators(monkeypatch)
    window = dataclasses.replace(WINDOWS["stride > kernel"], low=(accelerator, -1))
    image, grid, kernel = data(window, channels)
    for product, operands in (
        (windows.gather, (image, kernel)),
        (windows.scatter, (grid, kernel)),
        (windows.kernel_gradient, (image, grid)),
    ):
        exact = product(*operands, window=window)
        narrow = [a.astype(dtype) for a, dtype in zip(operands, dtypes, strict=True)]
        y = product(*narrow, window=window, preferred_element_type=jnp.float32)
        np.testing.assert_array_equal(y, exact, strict=True)
        assert product(*narrow, window=window).dtype == dtypes[0]


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
