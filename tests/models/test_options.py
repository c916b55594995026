"""Options of models: their types, and text and JSON as values of them."""

import inspect
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pytest
from flax import nnx

from fp4jax import models
from fp4jax.models.option_values import UnfitError, convert, described, placeholder

STRIDES = Sequence[int | Sequence[int]]


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        ("4", int, 4),
        (np.int64(4), int, 4),
        (4, float, 4.0),
        ("4", float | int, 4.0),
        ("1e-3", float, 1e-3),
        ("true", bool, True),
        ("False", bool, False),
        ("none", float | None, None),
        (None, float | None, None),
        ("None", str | None, None),
        ("0.5", float | None, 0.5),
        ("ref", Literal["fixed", "ref"], "ref"),
        ("2", Literal[1, 2], 2),
        ("word", str, "word"),
        ("4,8", tuple[int, ...], (4, 8)),
        ("4, 8,", Sequence[int], (4, 8)),
        ("4", list[int], (4,)),
        ("4,", tuple[int, ...], (4,)),
        (4, tuple[int, ...], (4,)),
        ([4, 8], tuple[int, ...], (4, 8)),
        (("4", "8"), tuple[int, ...], (4, 8)),
        ("[4, 8]", tuple[int, ...], (4, 8)),
        ("(4,)", tuple[int, ...], (4,)),
        ("2,2", STRIDES, (2, 2)),
        ("[[2, 1], 2]", STRIDES, ((2, 1), 2)),
        (("2,1", "2"), STRIDES, ((2, 1), 2)),
        ("7", int | Sequence[int], 7),
        ("7,7", int | Sequence[int], (7, 7)),
        ("4,0.5", tuple[int, float], (4, 0.5)),
        ("4", Any, 4),
        ("0.5", Any, 0.5),
        ("true", Any, True),
        ("none", inspect.Parameter.empty, None),
        ("4,x", Any, (4, "x")),
        ("word", Any, "word"),
        ([4, [8]], Any, (4, (8,))),
        (int, type, int),
    ],
    ids=repr,
)
def test_values(value, annotation, expected):
    got = convert(value, annotation)
    assert got == expected
    assert type(got) is type(expected)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        ("x", int),
        ("0.5", int),
        (0.5, int),
        (True, int),
        (True, float),
        ("yes", bool),
        (1, bool),
        ("torch", Literal["fixed", "ref"]),
        (3, str),
        ("", tuple[int, ...]),
        ("4,,8", tuple[int, ...]),
        ("4,x", tuple[int, ...]),
        ("[4, 8", tuple[int, ...]),
        ("[[4], 8]", tuple[int, ...]),
        ("[1, 2, 3]", tuple[int, int]),
        (None, int),
        ("dict", dict),
    ],
    ids=repr,
)
def test_unfit(value, annotation):
    with pytest.raises(UnfitError):
        convert(value, annotation)


def test_words_for_people():
    assert described(float | int | None) == "none or a number"
    assert described(bool) == "true or false"
    assert placeholder(Sequence[int]) == "INT [INT ...]"
    assert placeholder(Literal["a", "b"]) == "{a,b}"
    assert placeholder(float | None) == "none|FLOAT"


@pytest.mark.parametrize("name", models.names())
def test_every_option_has_a_type_and_a_meaning(name):
    """And values of the scales, and defaults, are values of the type."""
    options = models.options(name)
    assert not set(options) & {"in_channels", "image_size", "rngs", "dtype", "spatial_dims"}
    for option in options.values():
        assert option.type is not Any
        assert option.help, option.name
        if not option.required:
            assert option.parse(option.default) == option.default
            assert option.parse(str(option.default)) == option.default
    for values in models.registry._MODELS.find(name).scales.values():
        assert models.parse_options(name, values) == values
        texts = {key: str(value) for key, value in values.items()}
        assert models.parse_options(name, texts) == values


@pytest.mark.parametrize("strides", ["2", "2,", 2, (2,), [2], "[2]"], ids=repr)
def test_one_element_is_a_list(strides):
    def make():
        options = {"channels": "8,16", "strides": strides, "image_size": 16}
        return models.create("unet", rngs=nnx.Rngs(0), **options)

    assert len(nnx.eval_shape(make).downs) == 1


def test_options_as_text_make_the_same_model():
    def shapes(**options):
        model = nnx.eval_shape(lambda: models.create("swin_unetr", rngs=nnx.Rngs(0), **options))
        return nnx.state(model, nnx.Param)

    text = {"feature_size": "12", "depths": "1,1,1,1", "num_heads": "none", "qkv_bias": "false"}
    values = {"feature_size": 12, "depths": (1, 1, 1, 1), "num_heads": None, "qkv_bias": False}
    assert shapes(**text) == shapes(**values)


def test_messages():
    with pytest.raises(ValueError, match=r"^unet has no option width; its options are: channels,"):
        models.parse_options("unet", {"width": 3})
    with pytest.raises(
        ValueError, match=r"^cnn: option init is 'torch'; allowed: 'fixed', 'ref'\.$"
    ):
        models.parse_options("cnn", {"init": "torch"})
    with pytest.raises(ValueError, match=r"^vit: option dim is '4,8'; allowed: an integer\.$"):
        models.create("vit", dim="4,8", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="spatial_dims is 3; leave it at 2"):
        models.create("cnn", spatial_dims=3, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="known names: cnn"):
        models.options("resnet")
