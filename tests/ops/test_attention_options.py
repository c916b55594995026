"""fp4.attention and its recipes: what is refused, causal and random ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fp4jax as fp4
from fp4jax.ops.attention_function import dot_product_attention
from fp4jax.ops.attention_recipe import AttentionRecipe, register_attention_recipe
from tests.samples import assert_same_bits

Q, K, V = jax.random.normal(jax.random.key(0), (3, 1, 4, 2, 16))
KEY = jax.random.key(1)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: fp4.attention(Q, K, V, recipe="attention_sr"),
            "rounds stochastically but key is None",
        ),
        (lambda: fp4.attention(Q, K, V, recipe="attention_sr", key=3), "key"),
        (lambda: fp4.attention(Q, K, V, recipe="attention_qat", amax=3.0), "give a mapping"),
        (
            lambda: fp4.attention(Q, K, V, recipe="attention_qat", amax={"x": 3.0}),
            "roles begin with 'qk.' or 'pv.'",
        ),
        (lambda: AttentionRecipe(name="a", logits="both"), "AttentionRecipe.logits is 'both'"),
        (lambda: AttentionRecipe.from_json({"qk": "full"}), "an attention recipe has no name"),
        (lambda: AttentionRecipe.from_json({"name": "a", "kq": 1}), "has no kq; it has"),
        (lambda: register_attention_recipe("full"), "give an AttentionRecipe"),
        (
            lambda: dot_product_attention(
                Q, K, V, dropout_rate=0.5, deterministic=False, options={"recipe": 0, "key": None}
            ),
            "dropout_rng is None",
        ),
    ],
)
def test_mistakes(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_causal_is_a_mask():
    mask = np.tril(np.ones((4, 4), bool))
    causal = fp4.attention(Q, K, V, is_causal=True, recipe="attention_qat")
    assert_same_bits(causal, fp4.attention(Q, K, V, mask=mask, recipe="attention_qat"))
    both = fp4.attention(Q, K, V, mask=mask, is_causal=True, recipe="attention_qat")
    assert_same_bits(both, causal)
    # The first query sees the first key alone, so that its result is that value, quantized.
    assert float(jnp.abs(causal[:, 0] - V[:, 0]).max()) < 0.5


def test_random_bits_are_those_of_the_key():
    @jax.jit
    def gradient(key):
        return jax.grad(lambda q: fp4.attention(q, K, V, recipe="attention_sr", key=key).sum())(Q)

    assert_same_bits(gradient(KEY), gradient(KEY))
    assert (gradient(KEY) != gradient(jax.random.key(2))).any()


def test_dropout_keeps_a_share_and_its_mean():
    options = {"recipe": "attention_naive", "key": None}
    ones = jnp.ones((1, 64, 2, 16))
    y = dot_product_attention(
        ones * 0,
        ones * 0,
        ones,
        dropout_rng=KEY,
        dropout_rate=0.5,
        deterministic=False,
        broadcast_dropout=False,
        options=options,
    )
    assert 0.8 < float(y.mean()) < 1.2
    assert float(y.std()) > 0.02
