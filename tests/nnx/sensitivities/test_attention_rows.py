"""sensitivity of attention: its rows against models to which rules applied the recipes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fp4jax import nnx as fp4nnx
from fp4jax.nnx import SensitivityTable
from fp4jax.ops.attention_given import ATTENTION_ROLES
from fp4jax.ops.recipe import ROLES
from tests.samples import normal

BATCH = (4 * normal(0, 2, 5, 16), (normal(1, 2, 5, 16) > 0).astype(jnp.float32))


class Net(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.attend = nnx.MultiHeadAttention(2, 16, decode=False, rngs=rngs)
        self.head = nnx.Linear(16, 16, rngs=rngs)

    def __call__(self, x):
        return self.head(x + self.attend(x))


def loss(logits, targets):
    return jnp.mean(jax.nn.softplus(logits) - targets * logits)


@pytest.fixture(scope="module")
def table():
    return fp4nnx.sensitivity(
        Net(), [BATCH], "full", loss=loss, attention="attention_full", keep="attend.query"
    )


@pytest.mark.slow
def test_rows(table):
    layers = ["attend.key", "attend.value", "attend.attention", "attend.out", "head"]
    assert sorted(row.layer for row in table.layers) == sorted(layers)
    operands = [row.operand for row in table.rows if row.layer == "attend.attention"]
    assert operands == ["all", *ATTENTION_ROLES]
    assert [row.operand for row in table.rows if row.layer == "head"] == ["all", *ROLES]
    (attention,) = [row for row in table.layers if row.layer == "attend.attention"]
    assert attention.multiply_adds == 2 * 2 * 5 * 5 * 16
    for row in table.rows:
        if row.layer == "attend.attention":
            forward = row.operand == "all" or ".fprop." in row.operand
            assert (row.kl > 0) == (row.loss != 0) == forward, row
            assert 0 < row.gradient < 1
    assert SensitivityTable.from_json(table.to_json()) == table
    assert "each attention under attention_full" in str(table)


@pytest.mark.slow
def test_an_attention_alone_is_what_rules_make_of_it(table):
    (row,) = [row for row in table.layers if row.layer == "attend.attention"]

    def outcome(rules):
        model = fp4nnx.apply_recipe(Net(), rules)

        def of(model):
            logits = model(BATCH[0])
            return loss(logits, BATCH[1]), logits

        gradient, logits = nnx.jit(nnx.grad(of, has_aux=True))(model)
        leaves = [np.ravel(a) for a in jax.tree.leaves(gradient)]
        return np.asarray(logits, np.float64), np.concatenate(leaves).astype(np.float64)

    z, g = outcome({".*": None})
    z_q, g_q = outcome({".*attention$": "attention_full", ".*": None})
    p, q = (1 / (1 + np.exp(-a)) for a in (z, z_q))
    kl = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum(-1).mean()
    assert row.kl == pytest.approx(kl, rel=1e-2)
    assert row.gradient == pytest.approx(np.linalg.norm(g_q - g) / np.linalg.norm(g), rel=1e-2)


@pytest.mark.slow
def test_a_proposal_may_keep_it(table):
    """Its rules leave the attention in high precision, or give it its recipe."""
    for keep, attentions in (
        ((r"attend\.attention$",), {}),
        (("head$",), {"attend.attention": "attention_full"}),
    ):
        model = fp4nnx.apply_recipe(Net(), table.rules(keep))
        report = fp4nnx.report(model)
        assert report.attentions == attentions
        kept = {layer.path for layer in report.layers if layer.precision != "full"}
        assert kept == {"attend.query", *(["head"] if "head$" in keep else [])}


def test_the_forward_pass_alone_and_attention_alone():
    """All switches off is the float model, of the naive rule too."""
    model = Net()
    table = fp4nnx.sensitivity(model, BATCH[:1], "baseline", attention="attention_naive")
    assert [row.layer for row in table.layers] == ["attend.attention"]
    forward = [role for role in ATTENTION_ROLES if ".fprop." in role]
    assert [row.operand for row in table.rows] == ["all", *forward]
    assert all(row.kl > 0 for row in table.rows)
    assert table.together.kl == table.rows[0].kl
    assert set(table.kept) == {f"attend.{n}" for n in ("key", "out", "query", "value")} | {"head"}
    rules = table.rules(fp4nnx.keep_list(table, 1.0))
    applied = fp4nnx.report(fp4nnx.apply_recipe(model, rules))
    assert applied.attentions == {"attend.attention": "attention_naive"}
    assert not applied.quantized
