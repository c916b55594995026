"""What the diagnosis says of P where the products inside attention are quantized."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fp4jax as fp4
from fp4jax.analysis.diagnosis.probabilities import probability_sums, quantized_attention
from tests.samples import sample


def test_a_row_by_hand():
    """Masked keys count for nothing; what is lost shows as zeros and as mass."""
    exact = jnp.array([[0.5, 0.3, 0.2, 0.0], [0.25, 0.25, 0.25, 0.25]])
    quantized = jnp.array([[0.5, 0.25, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
    free = jnp.array([[True, True, True, False], [True] * 4])
    first, second = (
        probability_sums(exact[i : i + 1], quantized[i : i + 1], free[i : i + 1]) for i in range(2)
    )
    found = first.quantities()
    assert found["levels"] == 3
    assert found["zeros"] == pytest.approx(1 / 3)
    assert found["mass"] == 0.75
    assert found["shift"] == pytest.approx((0.05 + 0.2) / 2)
    p = np.array([2 / 3, 1 / 3])
    assert found["entropy"] == pytest.approx(-(p * np.log(p)).sum() / np.log(3))
    assert second.quantities() == pytest.approx(
        {"entropy": 1, "levels": 1, "level_share": 0.25, "zeros": 0, "mass": 1, "shift": 0}
    )
    both = (first + second).quantities()
    assert both["levels"] == 2


def test_fp4_leaves_few_values():
    """Of 64 keys' weights in four blocks: each block takes at most the eight magnitudes of FP4."""
    qkv = jnp.asarray(sample("normal", (2, 64, 96)))
    key = jax.random.key(0)
    options = {"heads": 2, "bias": None}
    found = quantized_attention(
        qkv, key, recipe=fp4.get_attention_recipe("attention_qat"), **options
    )
    p, z = (found[name].quantities() for name in ("probabilities", "attention"))
    assert 4 < p["levels"] <= 4 * 8
    assert z["level_share"] > 0.9  # the logits themselves do not collapse
    assert p["zeros"] > 0
    assert 0.9 < p["mass"] < 1.1
    assert 0.01 < z["shift"] < p["shift"]
    only_qk = fp4.AttentionRecipe(name="qk", qk="chain_rule")
    exact = quantized_attention(qkv, key, recipe=only_qk, **options)["probabilities"].quantities()
    assert exact["level_share"] > 0.9
    assert exact["zeros"] == 0
