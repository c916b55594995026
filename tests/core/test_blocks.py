"""Block views: padded, split in place, merged back, for any axis."""

import jax.numpy as jnp
import numpy as np
import pytest

from fp4jax.core.blocks import BlockView, normalize_axes, pad_to_blocks
from tests.samples import assert_same_bits

VIEWS = [
    # shape, axes, padded shape, split shape, positions of the 16s
    ((5,), (0,), (16,), (1, 16), (1,)),
    ((32,), (0,), (32,), (2, 16), (1,)),
    ((3, 40), (1,), (3, 48), (3, 3, 16), (2,)),
    ((17, 4), (0,), (32, 4), (2, 16, 4), (1,)),
    ((2, 20, 3), (1,), (2, 32, 3), (2, 2, 16, 3), (2,)),
    ((20, 33), (0, 1), (32, 48), (2, 16, 3, 16), (1, 3)),
    ((20, 33), (1, 0), (32, 48), (2, 16, 3, 16), (3, 1)),
    ((17, 2, 5), (2, 0), (32, 2, 16), (2, 16, 2, 1, 16), (4, 1)),
    ((0, 4), (0,), (0, 4), (0, 16, 4), (1,)),
]


@pytest.mark.parametrize(("shape", "axes", "padded", "split", "inner"), VIEWS)
def test_view(shape, axes, padded, split, inner):
    view = BlockView(shape, axes)
    assert (view.padded_shape, view.split_shape, view.inner_axes) == (padded, split, inner)
    x = np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)
    blocked = view.split(jnp.asarray(x))
    assert blocked.shape == split
    # nothing is transposed, and what is added is zero
    expected = np.pad(x, [(0, n - m) for m, n in zip(shape, padded, strict=True)])
    assert_same_bits(blocked.reshape(padded), expected)
    assert_same_bits(view.merge(blocked), x)


def test_per_block_drops_the_inner_axes_only():
    view = BlockView((17, 1, 5), (2, 0))
    per_block = jnp.ones([1 if a in view.inner_axes else n for a, n in enumerate(view.split_shape)])
    assert view.per_block(per_block).shape == (2, 1, 1)


def test_no_padding_where_none_is_needed():
    x = jnp.ones((16, 3))
    assert pad_to_blocks(x, (0,)) is x


@pytest.mark.parametrize(
    ("axis", "block", "ndim", "axes"),
    [
        (-1, (1, 16), 1, (0,)),
        (0, (1, 16), 3, (0,)),
        (-2, (1, 16), 3, (1,)),
        (-1, (16, 16), 2, (0, 1)),
        (-1, (16, 16), 4, (2, 3)),
        ((-1, 0), (16, 16), 3, (2, 0)),
    ],
)
def test_normalize_axes(axis, block, ndim, axes):
    assert normalize_axes(axis, block, ndim) == axes


@pytest.mark.parametrize(
    ("axis", "block", "ndim", "message"),
    [
        (2, (1, 16), 2, "axis 2 is out of range for rank 2: use -2 to 1"),
        (-3, (1, 16), 2, "axis -3 is out of range for rank 2"),
        ((0, 1), (1, 16), 2, "blocks of 1x16 take one axis"),
        (0, (16, 16), 2, "blocks of 16x16 take a pair of axes"),
        ((1, -1), (16, 16), 2, "two axes of a 16x16 block must differ"),
        ((0, 2), (16, 16), 2, "axis 2 is out of range"),
        (-1, (16, 16), 1, "rank 1 cannot hold blocks of 16x16: rank 2 or more"),
        (-1, (1, 16), 0, "rank 0 cannot hold blocks of 1x16"),
    ],
)
def test_bad_axes(axis, block, ndim, message):
    with pytest.raises(ValueError, match=message):
        normalize_axes(axis, block, ndim)
