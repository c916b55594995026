"""Packed models in files: what is written, what a file alone recreates, and damaged files."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from fp4jax import models, nnx as fp4nnx, packed, predict
from fp4jax.nnx import apply_recipe
from fp4jax.packed import tensors
from tests.checks import diagonal
from tests.nnx.test_packing import forward, linear, quietly, trained, x_of
from tests.samples import assert_same_bits
from tests.test_package import run_python

apply = functools.partial(apply_recipe, verbose=False)

ABOUT = predict.About("cnn", "500k", image_size=32, options={"stages": 3}, threshold=0.25)


@pytest.mark.parametrize(
    ("recipe", "rest"), diagonal(["2d+rht+sr", "forward_only+rht"], [None, jnp.bfloat16])
)
def test_a_file_alone_makes_the_model(recipe, rest, tmp_path):
    small = quietly(trained("cnn", recipe, image_size=32, stages=3), rest_dtype=rest)
    path = predict.save_packed(tmp_path / "m.safetensors", small, ABOUT)
    assert predict.describe(path) == ABOUT
    same = predict.load_packed(path)
    assert nnx.split(same)[0] == nnx.split(small)[0]
    jax.tree.map(assert_same_bits, nnx.state(same), nnx.state(small))
    assert_same_bits(forward(same, x_of(1, 32, 32, 3)), forward(small, x_of(1, 32, 32, 3)))
    assert list(tmp_path.iterdir()) == [path]


def test_what_others_read(tmp_path):
    """Names, dtypes and the header's size are those of the format."""
    small = quietly(linear("full"), rest_dtype=jnp.bfloat16)
    path = predict.save_packed(tmp_path / "m.safetensors", small)
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    about = {k: (v["dtype"], v["shape"]) for k, v in header.items() if k != "__metadata__"}
    assert about == {
        "bias": ("BF16", [24]),
        "kernel.amax": ("F32", []),
        "kernel.block_scales": ("F8_E4M3", [24, 2]),
        "kernel.codes": ("U8", [24, 16]),
    }
    assert header["__metadata__"]["format"] == "fp4jax-packed-2"


def test_templates(tmp_path):
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.up = nnx.ConvTranspose(16, 24, (2,), 2, rngs=rngs)
            self.drop = nnx.Dropout(0.1, rngs=rngs)
            self.out = nnx.Linear(24, 4, rngs=rngs)

        def __call__(self, x):
            return self.out(self.drop(self.up(x)))

    small = quietly(apply(Net(nnx.Rngs(0)), "2d+rht", keep="out"))
    path = predict.save_packed(tmp_path / "m.safetensors", small)
    x = x_of(1, 5, 16)
    other = Net(nnx.Rngs(1))
    for template in (other, apply(Net(nnx.Rngs(2)), "full"), small):
        assert_same_bits(predict.load_packed(path, template)(x), small(x))
    assert isinstance(other.out.dot_general, type(lax.dot_general))
    with pytest.raises(ValueError, match="does not say how to make its model"):
        predict.load_packed(path)
    with pytest.raises(ValueError, match=r"lacks|model needs|has a layer"):
        predict.load_packed(path, nnx.Linear(24, 4, rngs=nnx.Rngs(0)))


def test_models_that_are_not_packed(tmp_path):
    with pytest.raises(ValueError, match="is not packed"):
        predict.save_packed(tmp_path / "m.safetensors", linear())
    shapes = quietly(nnx.eval_shape(linear))
    with pytest.raises(ValueError, match="shape without values"):
        predict.save_packed(tmp_path / "m.safetensors", shapes)
    assert not list(tmp_path.iterdir())


def test_damaged_and_foreign_files(tmp_path):
    path = predict.save_packed(tmp_path / "m.safetensors", quietly(linear()))
    data = path.read_bytes()
    bad = tmp_path / "bad.safetensors"
    for content in (b"", data[:100], data[:-4], b"\x00" * 64, data + b"x"):
        bad.write_bytes(content)
        with pytest.raises(ValueError, match="no safetensors file, or it is damaged"):
            predict.load_packed(bad)
    tensors.write(bad, {"a": np.zeros(3)[:2].astype(np.float32)}, {})
    with pytest.raises(ValueError, match="has the format None"):
        predict.load_packed(bad)
    with pytest.raises(FileNotFoundError, match="is no file"):
        predict.load_packed(tmp_path / "none.safetensors")
    arrays, metadata = tensors.read(path)
    tensors.write(bad, arrays, metadata | {"layers": "{"})
    with pytest.raises(ValueError, match="metadata are incomplete"):
        predict.load_packed(bad)
    tensors.write(bad, {k: v for k, v in arrays.items() if k != "bias"}, metadata)
    with pytest.raises(ValueError, match="lacks bias"):
        predict.load_packed(bad, linear())
    tensors.write(bad, arrays | {"more": arrays["bias"]}, metadata)
    with pytest.raises(ValueError, match="has more, which the model lacks"):
        predict.load_packed(bad, linear())
    tensors.write(bad, arrays | {"bias": arrays["bias"][:3]}, metadata)
    with pytest.raises(ValueError, match=r"bias is float32 \(3,\), the model needs"):
        predict.load_packed(bad, linear())
    about = dataclasses.replace(ABOUT, arch="resnet")
    predict.save_packed(bad, quietly(linear()), about)
    with pytest.raises(ValueError, match="no model 'resnet'"):
        predict.load_packed(bad)


@pytest.mark.parametrize(
    ("arch", "recipe"), diagonal(["cnn", "vit", "swin"], ["full", "2d+rht+sr"])
)
def test_sizes_of_15m(arch, recipe, tmp_path):
    """At most 0.35 of bfloat16's, the quantized tensors alone 0.2825; zeros have that size."""

    def build():
        model = models.create(arch, "15m", rngs=nnx.Rngs(0))
        return apply(model, recipe, keep=model.high_precision)

    abstract = quietly(nnx.eval_shape(build), rest_dtype=jnp.bfloat16)
    graph, state, rest = nnx.split(abstract, nnx.Not(nnx.RngState), ...)
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), state)
    path = predict.save_packed(tmp_path / "m.safetensors", nnx.merge(graph, zeros, rest))
    size = packed.size(abstract)
    numbers = packed.size(nnx.eval_shape(build)).others
    assert size.weights + size.others == numbers > 13_000_000
    assert size.weight_bytes < 0.2825 * 2 * size.weights
    assert path.stat().st_size < 0.35 * 2 * numbers
    assert path.stat().st_size < 1.01 * size.nbytes


def test_files_of_the_first_format(tmp_path):
    """They have the index of a recipe in place of each record."""
    small = quietly(trained("cnn", "2d+rht", image_size=32, stages=3))
    path = predict.save_packed(tmp_path / "m.safetensors", small, ABOUT)
    arrays, metadata = tensors.read(path)
    records = json.loads(metadata["layers"])
    old = {name: record["recipe"] for name, record in records.items()}
    metadata |= {"format": "fp4jax-packed-1", "layers": json.dumps(old)}
    metadata["about"] = json.dumps(
        {k: v for k, v in json.loads(metadata["about"]).items() if k not in ("mean", "channels")}
    )
    tensors.write(path, arrays, metadata)
    assert predict.describe(path) == ABOUT
    same = predict.load_packed(path)
    assert nnx.split(same)[0] == nnx.split(small)[0]
    jax.tree.map(assert_same_bits, nnx.state(same), nnx.state(small))


def test_what_a_file_says_about_its_inputs(tmp_path):
    about = dataclasses.replace(
        ABOUT, mean=(0.4, 0.5, 0.6), sd=(0.2,) * 3, channels=("pre", "FLAIR", "post")
    )
    path = predict.save_packed(tmp_path / "m.safetensors", quietly(linear()), about)
    assert predict.describe(path) == about
    for wrong in ({"mean": (0.5,)}, {"channels": ("T1", "T2")}):
        with pytest.raises(ValueError, match=r"give 3, one for each of in_channels"):
            dataclasses.replace(ABOUT, **wrong)


def test_files_of_nnx_models(tmp_path):
    """fp4jax.nnx knows nothing of what makes a model: a template, and any text."""
    small = quietly(linear())
    path = fp4nnx.save_packed(tmp_path / "m.safetensors", small, {"note": "of a friend"})
    assert packed.read_records(path).metadata["note"] == "of a friend"
    assert_same_bits(fp4nnx.load_packed(path, linear())(x_of(3, 32)), small(x_of(3, 32)))
    with pytest.raises(ValueError, match="metadata has 'layers', which the format uses"):
        fp4nnx.save_packed(path, small, {"layers": ""})


def test_files_need_no_trainer():
    """Nor models, nor readers of data."""
    loaded = "print(*sorted({m.split('.')[1] for m in sys.modules if m.startswith('fp4jax.')}))"
    found = {
        name: set(run_python(f"import sys, fp4jax.{name}; {loaded}").split())
        for name in ("packed", "nnx")
    }
    low = {"core", "ops", "kernels", "packed", "files", "extras", "registration", "version"}
    assert found["packed"] <= low
    assert found["nnx"] <= low | {"nnx"}
