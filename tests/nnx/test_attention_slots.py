"""Attention by apply_recipe: in every kind of slot; reported, trained, packed, removed."""

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from flax.nnx.nn.attention import dot_product_attention

import fp4jax as fp4
from fp4jax import models
from fp4jax.models.dropout import Seeds
from fp4jax.models.transformer import Attention
from fp4jax.models.windows import WindowAttention
from fp4jax.nnx import (
    AttentionOp,
    apply_recipe,
    load_packed,
    pack,
    refresh_keys,
    remove_recipe,
    report,
    save_packed,
)
from fp4jax.ops.rules import Rules
from tests.checks import relative_error
from tests.samples import assert_same_bits

EXACT = fp4.AttentionRecipe(
    # Quantizes nothing in the forward pass, and yet goes through the slot.
    name="exact",
    qk=fp4.Recipe(name="g", dgrad=(fp4.TensorSpec(), None)),
)
X = jax.random.normal(jax.random.key(0), (2, 4, 6, 32))


class Own(nnx.Module):
    """Attention of this package's transformers; ``x`` is (b, h, w, c)."""

    def __init__(self, kind: str, dropout: float = 0.0):
        rngs = nnx.Rngs(0)
        if kind == "plain":
            self.attn = Attention(32, 2, dropout, "torch", jnp.float32, rngs)
        else:
            self.attn = WindowAttention(
                dim=32, heads=2, window=(4, 4), shifted=True, attention_dropout=dropout, rngs=rngs
            )

    def __call__(self, x, seed=0):
        x = x.reshape(2, -1, 32) if isinstance(self.attn, Attention) else x
        return self.attn(x, Seeds(nnx.Rngs(dropout=seed)))


def flax_attention(**options):
    return nnx.MultiHeadAttention(4, 32, decode=False, rngs=nnx.Rngs(0), **options)


MODELS = {
    "plain": functools.partial(Own, "plain"),
    "plain_dropout": functools.partial(Own, "plain", 0.2),
    "windows": functools.partial(Own, "windows"),
    "windows_dropout": functools.partial(Own, "windows", 0.2),
    "flax": flax_attention,
    "flax_grouped": functools.partial(flax_attention, num_kv_heads=2),
    "flax_dropout": functools.partial(flax_attention, dropout_rate=0.2, deterministic=False),
}
FAST = ("plain", "windows_dropout", "flax_dropout")


def call(model):
    """Flax's layers take their dropout's key by name."""
    key = {"rngs": nnx.Rngs(3)} if isinstance(model, nnx.MultiHeadAttention) else {}
    return model(X, **key)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in FAST)) for n in MODELS]
)
def test_the_slot_computes_what_the_layer_does(name):
    """In high precision the same, dropout included; quantized nearly; removed the same bits."""
    model = MODELS[name]()
    expected = call(model)
    apply_recipe(model, "baseline", attention=EXACT)
    assert relative_error(call(model), expected) < 5e-6
    apply_recipe(model, "baseline", attention="attention_qat")
    assert 1e-4 < relative_error(call(model), expected) < 0.5
    (path,) = report(model).attentions
    assert path.endswith("attention")
    assert not report(remove_recipe(model)).attentions
    assert_same_bits(call(model), expected)


def test_nobody_asked():
    """Recipes and rules of layers leave attention alone, and the program is the one without."""
    swin = functools.partial(
        models.create, "swin", scale="500k", image_size=64, in_channels=1, num_classes=1
    )
    shape = jax.ShapeDtypeStruct((1, 64, 64, 1), jnp.float32)

    def program(change):
        model = nnx.eval_shape(lambda: change(swin(rngs=nnx.Rngs(0))))
        model.eval()
        graph, state = nnx.split(model)
        return str(jax.make_jaxpr(lambda s, x: nnx.merge(graph, s)(x))(state, shape))

    plain = program(lambda model: apply_recipe(model, "baseline"))
    assert plain == program(lambda model: apply_recipe(model, {".*": None}))
    asked = program(lambda model: apply_recipe(model, "baseline", attention="attention_qat"))
    assert asked != plain
    there_and_back = program(
        lambda m: apply_recipe(apply_recipe(m, "baseline", attention="attention_qat"), "baseline")
    )
    assert there_and_back == plain


def test_report_counts_the_products():
    model = apply_recipe(flax_attention(), "baseline", attention="attention_qat")
    result = report(model, X)
    tokens = X.shape[2]
    products = [p for p in result.products if p.recipe == "attention_qat"]
    assert [p.multiply_adds for p in products] == [8 * tokens * tokens * 32] * 2
    assert result.fp4_multiply_adds == sum(p.multiply_adds for p in products)
    assert "attention_qat in 1 attentions" in result.summary
    only_pv = fp4.AttentionRecipe(name="pv", pv="full")
    half = report(apply_recipe(model, "baseline", attention=only_pv), X)
    assert half.fp4_multiply_adds == result.fp4_multiply_adds / 2


def test_rules():
    model = nnx.List([flax_attention(), flax_attention()])
    rules = {r"0\.attention$": "attention_qat", r".*attention$": EXACT, r"0\.": "full", ".*": None}
    apply_recipe(model, rules)
    assert report(model).attentions == {"0.attention": "attention_qat", "1.attention": "exact"}
    precisions = {layer.path: layer.precision for layer in report(model).layers}
    assert {n for n, p in precisions.items() if p == "full"} == {
        f"0.{name}" for name in ("key", "out", "query", "value")
    }
    assert Rules.make(Rules.make(rules).to_json()) == Rules.make(rules)
    # A later call replaces what it does not keep.
    apply_recipe(model, "full", keep="1")
    assert report(model).attentions == {"1.attention": "exact"}
    apply_recipe(model, {r"0\.attention$": None, ".*attention$": "attention_sr", ".*": "full"})
    assert report(model).attentions == {"1.attention": "attention_sr"}


def test_mistakes():
    linear = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="the model has no attention with a slot"):
        apply_recipe(linear, "full", attention="attention_qat")
    with pytest.raises(ValueError, match="no attention recipe 'full'; known names: attention_n"):
        apply_recipe(flax_attention(), "full", attention="full")
    with pytest.raises(ValueError, match=r"the rule 'x' matches no attention; .* are: attention"):
        apply_recipe(flax_attention(), {"x": "attention_qat", ".*": None})
    rules = {"attention": "attention_qat", ".*": None}
    with pytest.raises(ValueError, match="give one of them"):
        apply_recipe(flax_attention(), rules, attention="attention_qat")
    own = flax_attention(attention_fn=functools.partial(dot_product_attention))
    apply_recipe(own, "full")
    with pytest.raises(ValueError, match="the model has its own attention_fn"):
        apply_recipe(own, "full", attention="attention_qat")
    quantized = apply_recipe(flax_attention(), "full", attention="attention_qat")
    with pytest.raises(ValueError, match="does not return its weights"):
        quantized(X, sow_weights=True)


@pytest.mark.slow
def test_keys():
    """Attention draws its own bits, others in every step, and none of its projections'."""
    model = apply_recipe(flax_attention(), "sr", attention="attention_sr")
    refresh_keys(model, 0, 1)
    attend = model.attention_fn
    assert isinstance(attend, AttentionOp)
    assert attend.key is not None
    key = attend.key.get_value()
    assert key != model.query.dot_general.key.get_value()
    grad = nnx.jit(nnx.grad(lambda m: jnp.square(m(X)).sum()))
    first, again = grad(model), grad(model)
    jax.tree.map(assert_same_bits, first, again)
    refresh_keys(model, 0, 2)
    assert key != attend.key.get_value()
    later = grad(model)
    kernel = lambda g: g["query"]["kernel"].get_value()  # noqa: E731
    assert relative_error(kernel(later), kernel(first)) > 1e-3


@pytest.mark.slow
def test_packed(tmp_path):
    """A packed file keeps the attention recipe, and an Einsum that quantizes in every call."""

    class Net(nnx.Module):
        def __init__(self, seed):
            self.attend = nnx.MultiHeadAttention(4, 32, decode=False, rngs=nnx.Rngs(seed))
            self.last = nnx.Einsum("...i,io->...o", (32, 8), (8,), rngs=nnx.Rngs(seed))

        def __call__(self, x):
            return self.last(self.attend(x))

    model = apply_recipe(Net(0), "2d+rht+sr", attention="attention_full")
    refresh_keys(model, 0, 0)
    packed = pack(model)
    assert relative_error(packed(X), model(X)) < 1e-5
    path = save_packed(tmp_path / "net.safetensors", packed)
    loaded = load_packed(path, Net(1))
    assert report(loaded).attentions == {"attend.attention": "attention_full"}
    assert_same_bits(loaded(X), packed(X))
    spec = fp4.TensorSpec(rounding="stochastic")
    drawn = fp4.AttentionRecipe(name="a", pv=fp4.Recipe(name="drawn", fprop=(spec, spec)))
    model = apply_recipe(Net(0), "full", attention=drawn)
    with pytest.raises(ValueError, match="rounds stochastically"):
        pack(model)
