"""Convolutions in every layout: the same codes as channels last; kernels transposed or sharded."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import fp4jax as fp4
from tests.checks import (
    SUMS as TOLERANCE,
    Results,
    assert_close,
    assert_same_sums,
    diagonal,
    relative_error,
    three_gemms,
)
from tests.ops.convolution.cases import KEY, Case, channels_last
from tests.samples import on_grid, sample

CHANNELS_LAST = ("NHWC", "HWIO", "NHWC")
LAYOUTS = [
    ("NCHW", "OIHW", "NCHW"),
    ("HWNC", "OHWI", "CHNW"),
    # spatial dimensions permuted; lhs and out name them in the kernel's order
    ("NWHC", "HWIO", "WCNH"),
    lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)),
    None,
]


@pytest.mark.parametrize(("layout", "transposed"), diagonal(LAYOUTS, [False, True]))
def test_layouts(layout, transposed):
    """Every layout gives the channels-last result: the same codes."""
    x, w, g = map(jnp.asarray, layout_case(transposed).data())
    numbers = lax.conv_dimension_numbers(x.shape, w.shape, CHANNELS_LAST)
    # lax.conv_transpose without numbers means channels last, conv_general_dilated NCHW
    spelled = (CHANNELS_LAST if transposed else LAYOUTS[0]) if layout is None else layout
    if not isinstance(spelled, lax.ConvDimensionNumbers):
        spelled = lax.ConvDimensionNumbers(*_positions(spelled))
    moves = [_permutation(a, b) for a, b in zip(numbers, spelled, strict=True)]
    back = [tuple(np.argsort(move)) for move in moves]
    moved = (x.transpose(moves[0]), w.transpose(moves[1]), g.transpose(moves[2]))
    actual = in_layout(transposed, layout, moved)
    expected = in_channels_last(transposed)
    for ours, theirs, axes in zip(actual, expected, (back[2], back[0], back[1]), strict=True):
        assert_same_sums(ours.transpose(axes), theirs)


def layout_case(transposed: bool) -> Case:
    return Case((2, 6, 5, 20), (3, 2, 20, 18), (2, 1), ((1, 0), (1, 1)), (1, 1), 1, transposed)


@functools.cache
def in_channels_last(transposed: bool) -> Results:
    return in_layout(transposed, CHANNELS_LAST, layout_case(transposed).data())


def in_layout(transposed: bool, layout, arrays) -> Results:
    case = layout_case(transposed)
    convolve = fp4.conv_transpose if transposed else fp4.conv_general_dilated
    options = {"dimension_numbers": layout, "recipe": "2d+rht+sr", "key": KEY}
    f = lambda x, w: convolve(x, w, case.strides, case.padding, **options)  # noqa: E731
    return jax.jit(three_gemms(f))(*arrays)


def _positions(layout: tuple[str, str, str]) -> list[tuple[int, ...]]:
    """Axes of batch, channel and space of x and y, and of output, input and taps of w."""
    space = [c for c in layout[1] if c not in "IO"]
    order = ["N", "C", *space], ["O", "I", *space], ["N", "C", *space]
    return [tuple(spec.index(c) for c in names) for spec, names in zip(layout, order, strict=True)]


def _permutation(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    """Axes for transpose, from an array whose dimensions lie at a to one where they lie at b."""
    return tuple(a[b.index(axis)] for axis in range(len(a)))


@pytest.mark.parametrize(
    ("layout", "recipe"),
    diagonal([None, CHANNELS_LAST, LAYOUTS[0]], [None, "baseline", "2d+rht+sr"]),
)
def test_transpose_kernel(layout, recipe):
    """The kernel is flipped and its channels are swapped: in lax, and here."""
    case = Case((2, 5, 4, 18), (4, 3, 18, 20), (2, 1), "SAME", (1, 1), transposed=True)
    x, w, _ = case.data()
    # channels last by default, unlike lax.conv_general_dilated
    taps, channels = (0, 1), (2, 3)
    if layout == ("NCHW", "OIHW", "NCHW"):
        x, w = x.transpose(0, 3, 1, 2), w.transpose(3, 2, 0, 1)
        taps, channels = (2, 3), (0, 1)
    function = (fp4 if recipe else lax).conv_transpose
    options = {"recipe": recipe, "key": KEY} if recipe else {}

    def convolve(w, **more):
        return function(x, w, case.strides, "SAME", dimension_numbers=layout, **more, **options)

    @jax.jit
    def both(w):
        flip = lambda w: jnp.flip(w, taps).swapaxes(*channels)  # noqa: E731
        y, vjp = jax.vjp(convolve, w)
        transposed, transposed_vjp = jax.vjp(lambda w: convolve(w, transpose_kernel=True), flip(w))
        return (y, transposed), (vjp(y)[0], flip(transposed_vjp(y)[0]))

    for ours, theirs in both(w):
        assert relative_error(ours, theirs) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "recipe"),
    diagonal(["conv_general_dilated", "conv_transpose"], ["baseline", "2d+rht+sr"]),
)
def test_out_sharding(name, recipe):
    """Kernels sharded over output channels; lax refuses these without being told y's sharding."""
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    x, w = (on_grid(sample("normal", s)) for s in ((2, 6, 18), (3, 18, 20)))
    g = on_grid(sample("normal", (2, 6, 20), 1))

    def run(x, w, g, **options):
        function = functools.partial(getattr(fp4, name), dimension_numbers=channels_last(1))
        f = lambda x, w: function(x, w, (1,), "SAME", recipe=recipe, key=KEY, **options)  # noqa: E731
        return jax.jit(three_gemms(f))(x, w, g)

    specs = P("data"), P(None, None, "model"), P("data", None, "model")
    with jax.set_mesh(mesh):
        sharded = jax.device_put([x, w, g], [NamedSharding(mesh, spec) for spec in specs])
        results = run(*sharded, out_sharding=specs[2])
    for result, spec in zip(results, (specs[2], specs[0], specs[1]), strict=True):
        assert result.sharding.is_equivalent_to(NamedSharding(mesh, spec), result.ndim)
    assert_close(results, run(x, w, g), TOLERANCE)
