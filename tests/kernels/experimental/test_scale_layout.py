"""Block scales lie where the tcgen05 instructions look for them, as documented; and back."""

import jax.numpy as jnp
import numpy as np
import pytest

from fp4jax.kernels.experimental.scale_layout import from_128x4, to_128x4
from tests import mosaic_interpreter

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("rows", "blocks"), [(1, 1), (128, 16), (300, 13)])
def test_scale_layout_puts_bytes_where_the_documentation_says(rows, blocks):
    scales = np.random.default_rng(rows).integers(1, 256, (rows, blocks), dtype=np.uint8)
    tiles = np.asarray(to_128x4(jnp.asarray(scales)))
    row, block = np.ogrid[:rows, :blocks]
    address = (row // 128 * -(-blocks // 4) + block // 4) * 512
    address = address + row % 32 * 16 + row % 128 // 32 * 4 + block % 4
    assert (tiles.ravel()[address] == scales).all()
    assert np.count_nonzero(tiles) == scales.size
    assert (np.asarray(from_128x4(jnp.asarray(tiles), rows, blocks)) == scales).all()
    # As the interpreter puts them in order again, a tile of rows at a time.
    rest = np.zeros((128, 4 * tiles.shape[1]), np.uint8)
    rest[: min(rows, 128), :blocks] = scales[:128]
    assert (mosaic_interpreter.in_order(tiles[0].ravel()) == rest).all()
