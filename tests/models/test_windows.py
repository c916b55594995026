"""Windows of a Swin transformer: positions, shifts, tilings."""

import numpy as np

from fp4jax.models import swin, windows
from fp4jax.models.windows import Tiling
from tests.samples import normal


def test_windows_cover_regions_once():
    index = swin.relative_position_index(3)
    # Query in the middle: rows and columns of the keys are 1, 0, -1 away.
    away = (1, 0, -1)
    assert index[4].tolist() == [(dy + 2) * 5 + dx + 2 for dy in away for dx in away]
    assert swin.shift_mask(8, 4, 2).shape == (4, 16, 16)
    assert not swin.shift_mask(8, 4, 2)[0].any()
    # With one window, a shift of half cuts it into four quadrants.
    quadrants = (swin.shift_mask(4, 4, 2)[0] == 0).sum(1)
    assert quadrants.tolist() == [4] * 16


def test_windows():
    x = normal(0, 2, 5, 3, 8, 4)
    tiling = Tiling.fit((5, 3, 8), (3, 3, 3), shifted=True)
    assert tiling == Tiling((5, 3, 8), (3, 3, 3), (1, 0, 1))
    parts = tiling.split(tiling.pad(x))
    assert parts.shape == (2, 6, 27, 4)
    np.testing.assert_array_equal(tiling.join(parts), x)
    # The first window is whole; the last one has both ends of both shifted axes.
    regions = tiling.regions()
    assert [len(set(r)) for r in regions] == [1, 1, 2, 2, 2, 4]
    assert Tiling.fit((5, 3, 8), (3, 3, 3), shifted=False).regions() is None
    # A window of a small grid has the first tokens' rows of the nominal index.
    assert windows.relative_position_index((3, 3))[:4, :4].tolist() != (
        windows.relative_position_index((2, 2)).tolist()
    )
