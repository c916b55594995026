"""Noise of gradients, layer by layer: its bias and variance, and where small ones underflow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import fp4jax as fp4
from fp4jax import nnx as fp4nnx
from fp4jax.analysis.diagnosis import Subject, diagnose
from fp4jax.analysis.diagnosis.gradients import _deviations, forward_part, gradient_noise, gradients
from tests.analysis.diagnosed import parts, states_of
from tests.samples import normal


class Stack(nnx.Module):
    """Three convolutions, one after the other."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.convs = nnx.List(
            [nnx.Conv(16, 16, (3, 3), use_bias=False, rngs=rngs) for _ in range(3)]
        )

    def __call__(self, x):
        for conv in self.convs:
            x = conv(x)
        return x


def backward_noise(recipe: str, x: jax.Array, g: jax.Array, draws: int = 4) -> np.ndarray:
    """Noise-to-signal of the layers of a stack, first to last, whose output gradient is g."""
    subject = Subject(
        lambda recipe: fp4nnx.apply_recipe(Stack(), recipe, verbose=False),
        lambda model, batch: jnp.sum(model(batch[0]) * batch[1]),
    )
    data = (*parts(Stack()), [(x, g)])
    forward = gradients(subject, forward_part(fp4.get_recipe(recipe)), *data)
    layers = [f"convs.{i}" for i in range(3)]
    found = gradient_noise(subject, recipe, *data, {"": forward}, layers, draws)
    for quantities in found.values():
        parts_of_it = quantities["bias"] + quantities["variance"]
        assert quantities["noise_to_signal"] == pytest.approx(parts_of_it)
    return np.array([found[layer]["noise_to_signal"] for layer in layers])


def test_gradient_noise_shows_where_small_gradients_underflow():
    """One large gradient in each block, and many small ones of one sign, which `full` loses.

    Together the small ones are the signal. Stochastic rounding keeps their mean, and the rotation
    spreads the large ones. What is left grows from the last layer to the first, the way that the
    gradient runs.
    """
    x = 1 + 0.3 * normal(1, 4, 16, 16, 16)
    large = jnp.sign(normal(2, 4, 16, 16, 16)) * jnp.eye(16)[None, None]
    g = jnp.where(large == 0, jnp.float32(0.03), large)
    full, advanced = (backward_noise(recipe, x, g) for recipe in ("full", "2d+rht+sr"))
    assert (full > 0.5).all()
    assert (advanced < 0.2).all()
    assert advanced[0] > advanced[1] > advanced[2]


@pytest.mark.slow  # the test above sees it, too
def test_gradient_noise_grows_with_depth():
    noise = backward_noise("full", normal(1, 2, 8, 8, 16), normal(2, 2, 8, 8, 16))
    assert 0.1 > noise[0] > noise[1] > noise[2] > 0.01


def test_bias_and_variance_are_estimated_without_bias():
    rng = np.random.default_rng(0)
    g, shift = rng.normal(size=1000), 0.1 * rng.normal(size=1000)
    noisy = ({"a.kernel": g + shift + 0.5 * rng.normal(size=1000)} for _ in range(20))
    terms = _deviations(noisy, {"": {"a.kernel": g}}, ["a"])["", "a"]
    signal, bias, variance = terms
    assert signal == pytest.approx(g @ g)
    assert variance / 1000 == pytest.approx(0.25, rel=0.05)
    # The mean of 20 draws deviates by 0.5 / sqrt(20), more than the bias of 0.1.
    assert bias / 1000 == pytest.approx(shift @ shift / 1000, abs=0.004)


def test_a_layer_that_runs_twice_is_refused():
    class Twice(Stack):
        def __call__(self, x):
            return self.convs[0](self.convs[0](x))

    subject = Subject(
        lambda recipe: fp4nnx.apply_recipe(Twice(), recipe, verbose=False),
        lambda model, x: jnp.sum(model(x)),
    )
    with pytest.raises(ValueError, match="runs twice"):
        diagnose(subject, states_of(Twice()), ["full"], [normal(1, 1, 4, 4, 16)])
