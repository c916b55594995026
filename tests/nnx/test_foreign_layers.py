"""Layers with operations or calls of their own: refused, unless they use our slots or are kept."""

import jax.numpy as jnp
import pytest
from flax import nnx
from jax import lax

from fp4jax import nnx as fp4nnx
from fp4jax.nnx import report
from tests.checks import assert_same_sums, relative_error
from tests.nnx.test_apply_recipe import apply, precisions
from tests.samples import sample

FOREIGN = {
    "linear": lambda f: nnx.Linear(3, 4, dot_general=f, rngs=nnx.Rngs(0)),
    "linear_general": lambda f: nnx.LinearGeneral(3, 4, dot_general=f, rngs=nnx.Rngs(0)),
    "class": lambda f: nnx.LinearGeneral(3, 4, dot_general_cls=lambda: f, rngs=nnx.Rngs(0)),
    "attention": lambda f: nnx.MultiHeadAttention(2, 4, out_dot_general=f, rngs=nnx.Rngs(0)),
    "conv": lambda f: nnx.Conv(3, 4, (3,), conv_general_dilated=f, rngs=nnx.Rngs(0)),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_operations_are_refused(name):
    """And the rest of the model is left as it was."""

    def foreign(*args, **kwargs):
        return lax.dot_general(*args, **kwargs)

    model = nnx.Sequential(nnx.Linear(3, 3, rngs=nnx.Rngs(0)), FOREIGN[name](foreign))
    slot = "conv_general_dilated" if name == "conv" else "dot_general"
    with pytest.raises(ValueError, match=rf"layer 'layers\.1.*' has its own {slot}"):
        apply(model, "full")
    assert model.layers[0].dot_general is lax.dot_general
    assert report(model).quantized == ()


def test_transposed_convolutions_with_a_call_of_their_own():
    """They are refused, unless they use fp4jax's slot."""

    class Foreign(nnx.ConvTranspose):
        def __call__(self, inputs):
            return 2 * super().__call__(inputs)

    class Ours(fp4nnx.ConvTranspose):
        def __call__(self, inputs):
            return 2 * super().__call__(inputs)

    arguments, x = (20, 18, (3,)), jnp.asarray(sample("normal", (2, 5, 20)))
    message = r"'' is a Foreign with a __call__ of its own; derive it from fp4jax.nnx.ConvTranspose"
    with pytest.raises(ValueError, match=message):
        apply(Foreign(*arguments, rngs=nnx.Rngs(0)), "full")
    ours = apply(Ours(*arguments, rngs=nnx.Rngs(0)), "full")
    theirs = apply(nnx.ConvTranspose(*arguments, rngs=nnx.Rngs(0)), "full")
    assert_same_sums(ours(x), 2 * theirs(x))


def test_transposed_convolutions_without_a_call_of_their_own():
    """A subclass is refused or quantized, but not reported and left in high precision."""

    class Named(nnx.ConvTranspose):
        pass

    layer, x = Named(20, 18, (3,), rngs=nnx.Rngs(0)), sample("normal", (2, 5, 20))
    exact = layer(x)
    try:
        apply(layer, "full")
    except ValueError:
        return
    assert relative_error(layer(x), exact) > 0.01


def test_kept_layers_may_have_operations_of_their_own():
    rngs = nnx.Rngs(0)
    foreign = lambda *args, **kwargs: lax.dot_general(*args, **kwargs)  # noqa: E731
    model = nnx.Sequential(nnx.Linear(3, 3, rngs=rngs), FOREIGN["linear"](foreign))
    apply(model, "full", keep=r"layers\.1")
    assert model.layers[1].dot_general is foreign
    assert precisions(model) == {"layers.0": "full", "layers.1": "high precision"}
