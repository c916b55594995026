"""The format of packed models: what is written is read, and what is damaged is said to be."""

import json

import numpy as np
import pytest

import fp4jax as fp4
from fp4jax.packed import LayerRecord, PackedModel, read_model, read_records, tensors, write_model
from fp4jax.packed.stored import StoredMatrix

STORED = StoredMatrix(
    stack=(),
    leading=(("group", 2, 2),),
    rows=(("out", 9, 16),),
    columns=(("tap0", 3, 3), ("in", 10, 16)),
    kernel_axes=("tap0", "in", "group", "out"),
    taps_reversed=False,
    block=(16, 16),
    bound=2688.0,
    hadamard=None,
    dtype="float32",
)
FULL, TILES = (fp4.Recipe(name=n, fprop=fp4.get_recipe(n).fprop) for n in ("full", "2d+rht"))
MODEL = PackedModel(
    arrays={"conv.kernel.codes": np.arange(12, dtype=np.uint8).reshape(3, 4)},
    layers={
        "conv": LayerRecord(TILES, "Conv", (3, 10, 18), {"strides": [2]}, STORED),
        "head": LayerRecord(FULL, "Linear", (18, 4)),
        "other": LayerRecord(FULL, "Linear", (18, 4)),
    },
    metadata={"about": "text"},
)


@pytest.fixture
def path(tmp_path):
    return write_model(tmp_path / "m.safetensors", MODEL)


def test_what_is_written_is_read(path):
    same = read_model(path)
    assert same.layers == MODEL.layers
    assert same.metadata == MODEL.metadata
    np.testing.assert_array_equal(
        same.arrays["conv.kernel.codes"], MODEL.arrays["conv.kernel.codes"]
    )
    assert read_records(path) == PackedModel({}, MODEL.layers, MODEL.metadata)


def test_equal_recipes_are_written_once(path):
    _, metadata = tensors.read(path)
    assert [recipe["name"] for recipe in json.loads(metadata["recipes"])] == ["2d+rht", "full"]


def test_the_first_format(path):
    arrays, metadata = tensors.read(path)
    old = {"format": "fp4jax-packed-1", "layers": json.dumps({"conv": 0, "head": 1})}
    tensors.write(path, arrays, metadata | old)
    assert read_model(path).layers == {"conv": LayerRecord(TILES), "head": LayerRecord(FULL)}


@pytest.mark.parametrize(
    "change",
    [
        {"layers": "{"},
        {"layers": "[]"},
        {"layers": '{"conv": {"kind": "Conv"}}'},
        {"layers": '{"conv": 0}'},
        {"recipes": "[]"},
        {"recipes": '[{"name": "full", "fprop": [{"block": 3}, null]}]'},
    ],
    ids=["no JSON", "a list", "a part", "an index", "no recipes", "no spec"],
)
def test_damaged_metadata(path, change):
    arrays, metadata = tensors.read(path)
    tensors.write(path, arrays, metadata | change)
    for read in (read_model, read_records):
        with pytest.raises(ValueError, match="is damaged: its metadata are incomplete"):
            read(path)


def test_other_formats(path):
    arrays, metadata = tensors.read(path)
    tensors.write(path, arrays, metadata | {"format": "fp4jax-packed-9"})
    with pytest.raises(ValueError, match="has the format 'fp4jax-packed-9', not 'fp4jax-packed-2'"):
        read_model(path)
