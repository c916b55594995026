"""Attention in the diagnosis: logits of the layer, levels of its softmax, and its collapse."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fp4jax import nnx as fp4nnx
from fp4jax.analysis.diagnosis import Subject, diagnose
from fp4jax.analysis.diagnosis.attention import attention_sums, bias_of, logits
from fp4jax.models.dropout import Seeds
from fp4jax.models.swin import WindowAttention
from fp4jax.models.transformer import Attention
from tests.analysis.diagnosed import states_of, values
from tests.samples import normal


@pytest.mark.parametrize("windowed", [False, True])
def test_logits_are_those_of_the_layer(windowed):
    common: dict[str, Any] = {
        "dropout": 0,
        "init": "torch",
        "dtype": jnp.float32,
        "rngs": nnx.Rngs(0),
    }
    layer: Any = (
        WindowAttention(4, 4, 2, dim=32, heads=2, **common)
        if windowed
        else Attention(32, 2, **common)
    )
    x = normal(1, 3, 16, 32)
    sets = jnp.roll(x.reshape(3, 4, 4, 32), (-2, -2), (1, 2)).reshape(3, 1, 16, 32)
    qkv = layer.qkv(sets if windowed else x)
    v = qkv[..., 64:].reshape(*qkv.shape[:-1], 2, 16)
    p = jax.nn.softmax(logits(qkv, 2, bias_of(layer)))
    y = layer.proj(jnp.einsum("...hqk,...khd->...qhd", p, v).reshape(*qkv.shape[:-1], 32))
    if windowed:
        y = jnp.roll(y.reshape(3, 4, 4, 32), (2, 2), (1, 2)).reshape(3, 16, 32)
    np.testing.assert_allclose(layer(x, Seeds(None)), y, rtol=1e-5, atol=1e-6)


def test_masked_tokens_do_not_count():
    exact = jnp.array([[0.0, 1.0, 2.0, -100.0]])
    found = attention_sums(exact, exact, exact > -50).quantities()
    assert found["levels"] == 3
    assert found["level_share"] == 1
    uniform = attention_sums(exact, jnp.array([[1.0, 1.0, 1.0, -100.0]]), exact > -50)
    assert uniform.quantities()["levels"] == 1
    assert uniform.quantities()["entropy"] == pytest.approx(1)


class OneAttention(nnx.Module):
    """A model that is one attention layer."""

    def __init__(self):
        self.attn = Attention(32, 2, 0, "torch", jnp.float32, nnx.Rngs(0))

    def __call__(self, x):
        return self.attn(x, Seeds(None))


def test_a_collapse_of_attention_shows():
    """Tokens that differ by less than FP4's smallest step get one key: a uniform softmax.

    Each block of 16 channels holds one large value, and what tells tokens apart beside it. Rotated
    before it is quantized, a block has no outlier, and tokens stay apart.
    """
    tokens = 16
    x = 0.2 * jnp.sign(normal(1, 2, tokens, 32))
    x = x.at[..., ::16].set(6.0)
    model = OneAttention()
    model.attn.qkv.kernel.set_value(0.5 * normal(2, 32, 96))
    rows = diagnose(
        Subject(
            lambda recipe: fp4nnx.apply_recipe(
                OneAttention(), recipe, keep=r"attn\.proj", verbose=False
            ),
            lambda model, x: jnp.mean(model(x) ** 2),
        ),
        states_of(model),
        ["forward_only", "forward_only+rht"],
        [x],
    )

    def attention(recipe: str, quantity: str) -> float:
        (value,) = values(rows, recipe=recipe, quantity=quantity, layer="attn")
        return value

    assert attention("baseline", "levels") > 0.99 * tokens
    assert attention("baseline", "entropy") < 0.9
    assert attention("forward_only", "levels") == 1
    assert attention("forward_only", "entropy") == pytest.approx(1, abs=1e-5)
    assert attention("forward_only", "shift") > 0.3
    assert attention("forward_only+rht", "levels") > tokens / 2
    assert attention("forward_only+rht", "shift") < attention("forward_only", "shift")
    (lost,) = values(rows, recipe="forward_only", quantity="underflow", of="fprop.x")
    assert lost == 15 / 16
