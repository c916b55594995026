"""Matrices of other formats: what does not fit is refused. And files that are none."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from fp4jax.nnx import apply_recipe, pack
from fp4jax.nnx.packed_files import contents_of
from fp4jax.packed import tensors
from fp4jax.packed.dot import Dot
from fp4jax.packed.rows import Rows


@pytest.fixture(scope="module")
def layer():
    """Of a linear layer with 16x16 tiles: how it is stored, and its rows."""
    packed = pack(apply_recipe(nnx.Linear(32, 20, rngs=nnx.Rngs(0)), "2d+rht"))
    contents = contents_of(packed)
    stored = contents.layers[""].stored
    codes, scales = (contents.arrays[f"kernel.{name}"] for name in ("codes", "block_scales"))
    return stored, Rows.of(stored, codes, scales), codes, scales.view(np.uint8)


def test_a_kernel_is_contracted_over_all_of_its_inputs():
    x, kernel = (jax.ShapeDtypeStruct(shape, np.float32) for shape in ((4, 32), (20, 32)))
    options = {"spec": None, "hadamard": False, "out_dtype": np.float32, "precision": None}
    with pytest.raises(ValueError, match=r"packed kernels are \(\*batch, \*in, \*out\)"):
        Dot.of(x, kernel, (((1,), (1,)), ((), ())), **options)


def test_round_trip(layer):
    stored, rows, codes, scales = layer
    again, scales_again = rows.arrays(stored)
    np.testing.assert_array_equal(again, codes)
    np.testing.assert_array_equal(scales_again, scales)


def test_other_shapes_are_refused(layer):
    stored, rows, *_ = layer
    short = Rows(rows.codes[:, 1:], rows.scales)
    with pytest.raises(ValueError, match=r"codes are \(20, 15\) .* a matrix of 20 rows"):
        short.arrays(stored)


def test_a_tile_with_unequal_scales_is_refused(layer):
    stored, rows, *_ = layer
    scales = rows.scales.copy()
    scales[3, 0] += 1
    with pytest.raises(ValueError, match="rows of a 16x16 tile have unequal scales"):
        Rows(rows.codes, scales).arrays(stored)


def test_a_stack_is_refused(layer):
    stored, rows, *_ = layer
    stack = dataclasses.replace(stored, stack=(2,))
    with pytest.raises(ValueError, match="is no matrix; give each a module of its own"):
        rows.arrays(stack)


def test_a_cut_file_is_damaged(tmp_path):
    path = tmp_path / "model.safetensors"
    tensors.write(path, {"x": np.zeros(64, np.float32)}, {})
    for cut in (4, 40, 100, path.stat().st_size - 1):
        path.with_name("cut").write_bytes(path.read_bytes()[:cut])
        with pytest.raises(ValueError, match="is no safetensors file, or it is damaged"):
            tensors.read(path.with_name("cut"))
