"""sensitivity: single layers against models to which rules applied the recipe, one compilation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fp4jax import TensorSpec, nnx as fp4nnx
from fp4jax.ops.recipe import ROLES, get_recipe
from fp4jax.ops.rules import Rules
from tests.samples import normal

RECIPE = "full"


class Net(nnx.Module):
    """A convolution and a dense layer; ``idle`` never runs."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.stem = nnx.Conv(4, 16, (3, 3), rngs=rngs)
        self.head = nnx.Linear(16, 2, rngs=rngs)
        self.idle = nnx.Linear(16, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.stem(x)))


BATCHES = [
    (normal(seed, 2, 6, 6, 4), (normal(seed + 10, 2, 6, 6, 2) > 0).astype(jnp.float32))
    for seed in range(2)
]
TRACED = []


def loss(logits, targets):
    """Binary cross entropy."""
    TRACED.append(1)
    return jnp.mean(jax.nn.softplus(logits) - targets * logits)


def accuracy(logits: np.ndarray, targets: np.ndarray) -> float:
    return float(np.mean((logits > 0) == (targets > 0)))


@pytest.fixture(scope="module")
def table():
    model, calls = Net(), []
    TRACED.clear()
    found = fp4nnx.sensitivity(
        model, BATCHES, RECIPE, accuracy, loss=loss, progress=lambda i, n: calls.append((i, n))
    )
    assert len(TRACED) == 1  # one program for all layers and operands
    assert calls == [(i + 1, len(found.rows) + 1) for i in range(len(found.rows) + 1)]
    assert not fp4nnx.report(model).quantized  # left as it was
    return found


def test_rows(table):
    assert [row.layer for row in table.layers] == ["stem", "head"]
    assert [row.operand for row in table.rows[:7]] == ["all", *ROLES]
    assert [row.multiply_adds for row in table.layers] == [2 * 36 * 9 * 4 * 16, 2 * 36 * 16 * 2]
    assert table.multiply_adds == sum(row.multiply_adds for row in table.layers)
    assert (table.metric, table.kept, table.recipe.name) == ("score", ("idle",), RECIPE)


@functools.cache
def outcome(recipe):
    """(logits, gradient) of both batches under a recipe, or in high precision."""
    model = Net()
    if recipe is not None:
        fp4nnx.apply_recipe(model, recipe)
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def run(params, x, y):
        def of(params):
            logits = nnx.merge(graph, params, rest)(x)
            return jnp.mean(jax.nn.softplus(logits) - y * logits), logits

        return jax.grad(of, has_aux=True)(params)

    pairs = [run(params, *batch) for batch in BATCHES]
    logits = np.stack([np.asarray(z, np.float64) for _, z in pairs])
    leaves = [np.concatenate([np.ravel(a) for a in jax.tree.leaves(g)]) for g, _ in pairs]
    return logits, np.concatenate(leaves).astype(np.float64)


def test_a_layer_alone_is_what_rules_make_of_it(table):
    """KL by its definition, error of the gradient, change of the loss and of the score."""
    z, g = outcome(None)
    z_q, g_q = outcome(Rules.make({"stem": RECIPE, ".*": None}))
    (row,) = [row for row in table.layers if row.layer == "stem"]
    p, q = (1 / (1 + np.exp(-a)) for a in (z, z_q))
    kl = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum(-1).mean()
    assert row.kl == pytest.approx(kl, rel=1e-3)
    assert row.gradient == pytest.approx(np.linalg.norm(g_q - g) / np.linalg.norm(g), rel=1e-3)
    assert row.cosine == pytest.approx(
        g @ g_q / (np.linalg.norm(g) * np.linalg.norm(g_q)), abs=1e-5
    )
    targets = np.stack([y for _, y in BATCHES])
    losses = [np.mean(np.logaddexp(0, a) - targets * a) for a in (z, z_q)]
    assert row.loss == pytest.approx(losses[1] - losses[0], rel=1e-2, abs=1e-6)
    assert table.reference["loss"] == pytest.approx(losses[0], rel=1e-5)
    assert row.score == pytest.approx(accuracy(z, targets) - accuracy(z_q, targets))


def test_the_backward_pass_changes_gradients_alone(table):
    for row in table.rows:
        if row.operand.startswith(("dgrad", "wgrad")):
            assert row.kl == row.loss == row.score == 0
        # The stem's dgrad ends at the images, of which nobody wants a gradient.
        if row.operand.startswith("dgrad") and row.layer == "stem":
            assert row.gradient == 0
        else:
            assert 0 < row.gradient < 1


def test_together_is_the_whole_model(table):
    z, _ = outcome(None)
    z_q, _ = outcome(RECIPE)
    p, q = (1 / (1 + np.exp(-a)) for a in (z, z_q))
    kl = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum(-1).mean()
    assert table.together.kl == pytest.approx(kl, rel=1e-3)


def dense() -> nnx.Module:
    return nnx.Linear(16, 4, rngs=nnx.Rngs(0))


X = normal(5, 8, 16)


def test_the_forward_pass_alone_of_a_model_that_is_one_layer():
    table = fp4nnx.sensitivity(dense(), [X], 5, activation="softmax")
    assert [row.operand for row in table.rows] == ["all", "fprop.x", "fprop.w"]
    assert {row.layer for row in table.rows} == {"(model)"}
    assert table.rows[0].gradient is None
    assert table.together.kl == table.rows[0].kl > 0
    applied = fp4nnx.apply_recipe(dense(), table.rules(fp4nnx.keep_list(table, 1.0)))
    assert fp4nnx.report(applied).quantized
    assert not fp4nnx.report(fp4nnx.apply_recipe(dense(), table.rules(("$",)))).quantized


@pytest.mark.slow  # a scan of layers is compiled
def test_a_stack_of_layers_is_one_row():
    class Stack(nnx.Module):
        def __init__(self):
            make = nnx.vmap(lambda key: nnx.Linear(16, 16, rngs=nnx.Rngs(key)))
            self.blocks = make(jax.random.split(jax.random.key(0), 3))

        def __call__(self, x):
            body = nnx.scan(
                lambda x, layer: nnx.relu(layer(x)), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry
            )
            return body(x, self.blocks)

    table = fp4nnx.sensitivity(Stack(), [X], "sr")
    (row,) = table.layers
    assert (row.layer, row.multiply_adds) == ("blocks", 3 * 8 * 16 * 16)
    assert row.kl == table.together.kl > 0


def packed() -> nnx.Module:
    return fp4nnx.pack(fp4nnx.apply_recipe(nnx.Sequential(dense()), RECIPE))


class Two(nnx.Module):
    def __init__(self):
        self.layer = dense()

    def __call__(self, x):
        return self.layer(x), x


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batches": []}, "there are no batches"),
        ({"batches": [X, X[:0]]}, "batch 1 is empty"),
        ({"batches": [X.at[0, 0].set(jnp.nan)]}, "outputs of the model .* batch 0 are not finite"),
        ({"model": nnx.Sequential(nnx.relu)}, "no layer of Sequential can be quantized"),
        ({"model": packed()}, "'layers.0' is packed"),
        ({"model": Two()}, "the model returns tuple"),
        ({"metric": "auprc"}, "metric is 'auprc'; allowed: kl, loss, gradient"),
        ({"metric": "loss"}, "metric 'loss' needs a loss"),
        ({"metric": accuracy}, "needs targets"),
        ({"loss": loss}, "needs targets"),
        ({"recipe": "baseline"}, "quantizes nothing"),
        ({"activation": "tanh"}, "activation is 'tanh'"),
        ({"keep": "head"}, "keep='head' matches no layer"),
        ({"batches": [(X, X)], "metric": lambda z, y: np.nan}, "the score of the batches is nan"),
    ],
)
def test_bad_input(changes, message):
    given = {"model": dense(), "batches": [X], "recipe": "forward_only", **changes}
    with pytest.raises(ValueError, match=message):
        fp4nnx.sensitivity(given.pop("model"), given.pop("batches"), given.pop("recipe"), **given)


def test_a_recipe_of_the_backward_pass_needs_a_loss():
    full = get_recipe("full")
    backward = dataclasses.replace(full, name="backward", fprop=(None, None))
    with pytest.raises(ValueError, match="quantizes the backward pass alone"):
        fp4nnx.sensitivity(dense(), [X], backward)


def test_a_static_amax_is_not_there():
    spec = TensorSpec(amax="static")
    static = dataclasses.replace(get_recipe("forward_only"), name="static", fprop=(spec, None))
    with pytest.raises(ValueError, match="takes its amax from the model's variables"):
        fp4nnx.sensitivity(dense(), [X], static)


def test_nothing_that_runs():
    class Unused(nnx.Module):
        def __init__(self):
            self.layer = dense()

        def __call__(self, x):
            return x

    with pytest.raises(ValueError, match="no layer of Unused runs its product"):
        fp4nnx.sensitivity(Unused(), [X], "full")
