"""Every example as if alone: the same bits among others, in any order, by any number at a time."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import fp4jax as fp4
from fp4jax import models, nnx as fp4nnx
from fp4jax.inference import Alone, alone as module, sliding_window
from tests.checks import relative_error
from tests.initial import filled

# Tiny networks, and the space of their examples: slices, and the windows of a volume.
NETWORKS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "cnn": ((16, 16), {"stages": 2, "channels": 16}),
    "vit": ((16, 16), {"depth": 1, "patch": 4}),
    "swin": ((16, 16), {"depth": 2, "patch": 4}),
    "unet": ((8, 8, 8), {"spatial_dims": 3, "channels": (16, 32), "strides": (2,)}),
}

# Of each network a recipe in the default tests.
FAST = {"cnn": "full", "vit": "baseline", "swin": "forward_only+rht", "unet": "2d+rht+sr"}


def example_network(name: str, recipe: str):
    """(forward, variables, five examples of different magnitudes) of a network in 4 bits."""
    space, options = NETWORKS[name]

    def build() -> nnx.Module:
        return models.create(
            name, "500k", in_channels=2, image_size=space[0], rngs=nnx.Rngs(0), **options
        )

    model: Any = filled(build)
    model = fp4nnx.apply_recipe(model, recipe, keep=model.high_precision, verbose=False)
    model.eval()
    graph, variables = nnx.split(model)

    def forward(variables, images):
        model = nnx.merge(graph, jax.tree.map(lambda leaf: leaf, variables))
        fp4nnx.refresh_keys(model, 0, 0)
        return model(images)

    images = np.random.default_rng(0).normal(size=(5, *space, 2)).astype(np.float32)
    images *= np.array([1.0, 3.0, 0.2, 7.0, 0.5], np.float32).reshape(-1, *[1] * (images.ndim - 1))
    return forward, variables, images


def same(*arrays: np.ndarray) -> bool:
    return all(np.array_equal(arrays[0].view(np.uint32), a.view(np.uint32)) for a in arrays)


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        pytest.param(name, recipe, marks=[] if FAST[name] == recipe else [pytest.mark.slow])
        for name in NETWORKS
        for recipe in fp4.recipes()
    ],
)
def test_logits_are_those_of_each_example_alone(name, recipe):
    forward, variables, images = example_network(name, recipe)
    traced = []

    def counted(variables, images):
        traced.append(images.shape)
        return forward(variables, images)

    alone = Alone(counted)
    together = alone(variables, images)
    assert together.shape == (5, *images.shape[1:-1], 1)
    one_by_one = [alone(variables, images[i : i + 1]) for i in range(5)]
    assert same(together, np.concatenate(one_by_one))
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(5)
        assert same(together[order], alone(variables, images[order]))
    parts = [alone(variables, images[:2]), alone(variables, images[2:])]
    assert same(together, np.concatenate(parts))
    streamed = alone.each(variables, (image for image in images))
    assert same(together, np.stack(list(streamed)))
    assert same(together[[3, 3]], alone(variables, images[[3, 3]]))
    assert len(traced) == 1
    # The bits of a deployed model, where programs are called for one example.
    if module.platform_of(variables) == "cpu":
        assert same(together[:1], np.asarray(jax.jit(forward)(variables, images[:1])))


def test_in_a_plain_batch_neighbours_matter():
    """So what is tested here is worth testing."""
    forward, variables, images = example_network("cnn", "full")
    batch = np.asarray(jax.jit(forward)(variables, images))
    together = Alone(forward)(variables, images)
    assert relative_error(batch, together) > 1e-3


@pytest.fixture
def on_accelerator(monkeypatch):
    """Chunks of three, as if a program ran elsewhere than on a CPU."""
    monkeypatch.setattr(module, "platform_of", lambda arrays: "gpu")
    monkeypatch.setattr(module, "LARGEST_CHUNK", 3)


def test_chunks_have_scales_of_their_own_and_are_filled_up(on_accelerator):
    traced = []

    def forward(factor, images):
        traced.append(images.shape)
        return factor * fp4.fake_quantize(images, fp4.TensorSpec(), axis=1)

    images = np.random.default_rng(0).normal(size=(8, 16, 2, 1)).astype(np.float32)
    images *= np.arange(1, 9, dtype=np.float32).reshape(8, 1, 1, 1)
    expected = [
        2 * np.asarray(fp4.fake_quantize(jnp.asarray(image), fp4.TensorSpec(), axis=0))
        for image in images
    ]
    alone = Alone(forward)
    for n in (8, 1, 3, 4):
        assert same(alone(jnp.float32(2), images[:n]), np.stack(expected[:n]))
    assert traced == [(1, 16, 2, 1)]


def test_a_chunk_follows_from_the_shape_of_an_example():
    sizes = [module._chunk_size(s) for s in ((32, 32), (256, 256), (96, 96, 96), (512, 512, 512))]
    assert sizes == [32, 16, 1, 1]


def test_images_are_taken_as_they_are_needed():
    taken = []

    def images():
        for i in range(6):
            taken.append(i)
            yield np.full((2, 2, 1), i, np.uint8)

    results = Alone(lambda _, x: x.astype(jnp.bfloat16) * 2).each(None, images())
    assert (next(iter(results)) == 0).all()
    assert len(taken) == module.AHEAD
    rest = list(results)
    assert [int(z[0, 0, 0]) for z in rest] == [2, 4, 6, 8, 10]
    assert rest[0].dtype == np.float32
    with pytest.raises(ValueError, match="no images"):
        Alone(lambda _, x: x)(None, np.zeros((0, 2, 2, 1), np.float32))


def test_windows_do_not_depend_on_each_other():
    """A bright corner changes only what windows with it in them say."""
    forward, variables, _ = example_network("unet", "2d+rht+sr")
    predict = functools.partial(Alone(forward).each, variables)
    image = np.random.default_rng(1).normal(size=(24, 8, 8, 2)).astype(np.float32)
    bright = image.copy()
    bright[:4] *= 50
    one, other = (
        sliding_window(predict, x, (8, 8, 8), overlap=0.0, weighting="constant")
        for x in (image, bright)
    )
    assert same(one[8:], other[8:])
    assert not same(one[:8], other[:8])
