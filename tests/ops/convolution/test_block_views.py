"""Views that several taps share: which they are, what they hold, and the gradients made of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fp4jax as fp4
from fp4jax.ops.convolution.block_views import BlockViews
from fp4jax.ops.convolution.geometry import Window
from fp4jax.ops.convolution.taps import map_taps
from fp4jax.ops.over_positions import over_positions
from tests.checks import SUMS, assert_close
from tests.ops.convolution.cases import Case, run
from tests.samples import sample


def window(grid, taps, stride=1, dilation=1, low=0, image=None, groups=1) -> Window:
    ndim = len(grid)
    each = [(v,) * ndim if isinstance(v, int) else v for v in (stride, dilation, low)]
    made = Window(grid, grid, taps, *each, groups=groups)
    padded = zip(made.span, made.reach, each[2], strict=True)
    whole = tuple(span + reach - 2 * lo for span, reach, lo in padded)
    return dataclasses.replace(made, image=image or whole)


@pytest.mark.parametrize(
    ("window", "run", "outer"),
    [
        (window((8, 32), (3, 3), low=1), 16, 1),
        (window((8, 32), (3, 3), low=1), 64, 0),
        (window((8, 8), (3, 3)), 1, 2),
        (window((4, 8, 8), (3, 3, 3)), 16, 1),
        (window((4, 8, 16), (3, 3, 3)), 16, 2),
        (window((48,), (3,)), 16, 0),
        (window((8, 16), (2, 2), stride=2), 16, 1),
        # rows 2, 5, 8, ... are read by no tap
        (window((8, 16), (2, 2), stride=3), 16, 0),
        # and here rows 1 and 3 + 4 k
        (window((2, 16), (2, 1), dilation=3), 16, 0),
        (window((4, 16), (2, 1), dilation=3), 16, 1),
        (window((4, 4, 16), (2, 1, 1), stride=(1, 2, 1)), 16, 1),
        (window((8, 32), (3, 3), groups=2), 16, 0),
        (window((0, 32), (3, 3), image=(4, 34)), 16, 0),
    ],
)
def test_axes_along_which_taps_share(window, run, outer):
    assert BlockViews.of(window, run).outer == outer


@pytest.mark.parametrize(
    "window",
    [
        window((5, 16), (3, 3), low=1),
        window((5, 16), (4, 3), stride=2, low=(1, 2)),
        # the last row of the image is beyond every tap
        window((4, 16), (2, 2), stride=2, image=(9, 32)),
        window((3, 4, 16), (2, 3, 2), dilation=(1, 1, 2)),
    ],
    ids=["dense", "stride", "unread row", "volume"],
)
def test_every_tap_finds_its_blocks_in_a_view(window):
    image = jnp.asarray(sample("normal", (2, *window.image, 3)))
    views = BlockViews.of(window, 16)
    assert views.outer == window.ndim - 1

    def taps_of(view, t):
        """What the outer taps cover of a view."""
        whole = view.reshape(2, *views.outer_window.image, 3)
        return map_taps(lambda part, t: part, whole, views.outer_window).reshape(
            *window.taps[: views.outer], 2, *window.grid, 3
        )

    found = views.by_taps(views.map(taps_of, image))
    expected = map_taps(lambda view, t: view, image, window)
    np.testing.assert_array_equal(found, expected.reshape(found.shape))


# Rows, or planes, of the grid are whole blocks in all of them.
CASES = {
    "rows": Case((2, 6, 16, 12), (3, 3, 12, 9), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "stride 2": Case((2, 9, 32, 6), (4, 4, 6, 10), (2, 2), ((1, 1), (1, 1)), (1, 1)),
    "padded rows": Case((1, 5, 16, 5), (2, 3, 5, 4), (1, 1), ((2, 3), (1, 1)), (2, 1)),
    "planes": Case((1, 4, 5, 16, 6), (3, 2, 3, 6, 5), (1,) * 3, ((1, 1), (0, 1), (1, 1)), (1,) * 3),
    "transposed": Case(
        (2, 5, 16, 20), (4, 4, 20, 9), (2, 2), ((2, 2), (2, 2)), (1, 1), transposed=True
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("recipe", ["full", "2d+rht+sr"])
def test_gradients_equal_the_oracle(recipe, case):
    """With the bits that each tap draws where the image is rounded stochastically."""
    case, recipe = CASES[case], fp4.get_recipe(recipe)
    x, w, g = case.data()
    assert_close(run(case, recipe, x, w, g), case.oracle(x, w, g, recipe), SUMS)


@pytest.mark.parametrize("outlier", [3, 4, 8], ids=["read", "read by the last tap", "not read"])
def test_amax_is_that_of_what_taps_read(outlier):
    """A large pixel makes all others zero if, and only if, a tap reads it."""
    x = np.array(sample("normal", (1, 9, 32, 4)))
    x[0, outlier] *= 1e6

    def loss(w):
        dn = ("NHWC", "HWIO", "NHWC")
        y = fp4.conv_general_dilated(
            x, w, (2, 2), "VALID", dimension_numbers=dn, recipe=fp4.get_recipe("full")
        )
        return (y * jnp.asarray(sample("normal", y.shape, 1))).sum()

    # Of the other rows' taps: those of an even row are 0, of an odd one 1.
    gradient = jax.grad(loss)(jnp.zeros((2, 2, 4, 3)))[(outlier + 1) % 2]
    assert bool((gradient == 0).all()) == (outlier < 8)


@pytest.mark.parametrize(("c", "o"), [(3, 7), (7, 3), (4, 4)])
def test_over_positions(c, o):
    x, g = (jnp.asarray(sample("normal", (50, n), n)) for n in (c, o))
    np.testing.assert_allclose(over_positions(x, g), x.T @ g, rtol=1e-4, atol=1e-5)
