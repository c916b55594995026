"""Static amaxes of the operands inside attention: calibrated, running, packed, restored."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import fp4jax as fp4
from fp4jax import nnx as fp4nnx

X = jax.random.normal(jax.random.key(0), (2, 6, 32))
run = nnx.jit(lambda model, x: model(x))
OPERANDS = ["attention.k", "attention.p", "attention.q", "attention.v"]


def attend(recipe="baseline", attention="attention_naive", seed=0) -> nnx.MultiHeadAttention:
    model = nnx.MultiHeadAttention(2, 32, decode=False, rngs=nnx.Rngs(seed))
    return fp4nnx.apply_recipe(model, recipe, attention=attention)


@pytest.fixture(scope="module")
def calibrated() -> nnx.MultiHeadAttention:
    return fp4nnx.calibrate(attend(), [X])


def test_static_is_dynamic_on_the_batch_that_sets_it(calibrated):
    expected = run(attend(), X)
    np.testing.assert_array_equal(run(calibrated, X), expected)
    amaxes = fp4nnx.static_amaxes(calibrated)
    assert sorted(amaxes) == OPERANDS
    q, k, v = (getattr(calibrated, name)(X) for name in ("query", "key", "value"))
    p = jax.nn.softmax(jnp.einsum("bmhd,bthd->bhmt", q, k) / 4)
    for name, operand in zip("qkpv", (q, k, p, v), strict=True):
        # P is that of quantized q and k.
        largest = float(jnp.abs(operand).max())
        tolerance = 0.1 if name == "p" else 1e-6
        assert float(amaxes[f"attention.{name}"]) == pytest.approx(largest, rel=tolerance)
    assert fp4nnx.report(calibrated).attentions == {"attention": "attention_naive+static"}


def test_one_outlier_changes_no_other_example(calibrated):
    wild = X.at[1].mul(50.0)
    np.testing.assert_array_equal(run(calibrated, wild)[0], run(calibrated, X)[0])
    assert (run(attend(), wild)[0] != run(attend(), X)[0]).any()
    assert np.isnan(run(calibrated, X.at[1, 2, 3].set(np.inf))[1]).any()


@pytest.mark.slow
def test_amaxes_are_kept(calibrated, tmp_path):
    """By set_static_amaxes and, with layers that are packed, by pack and its files."""
    known = fp4nnx.static_amaxes(calibrated)
    restored = fp4nnx.set_static_amaxes(attend(), known)
    np.testing.assert_array_equal(run(restored, X), run(calibrated, X))
    model = fp4nnx.calibrate(attend("forward_only"), [X])
    packed = fp4nnx.pack(model)
    np.testing.assert_allclose(packed(X), model(X), rtol=0, atol=1e-5)
    path = fp4nnx.save_packed(tmp_path / "net.safetensors", packed)
    loaded = fp4nnx.load_packed(path, attend(seed=1))
    assert fp4nnx.static_amaxes(loaded) == fp4nnx.static_amaxes(model)
    np.testing.assert_array_equal(loaded(X), packed(X))


@pytest.mark.slow
def test_a_running_amax_and_gradients():
    """A step uses the amaxes of earlier ones; the first its own, with its gradients."""
    dynamic = attend(attention="attention_qat")
    model = fp4nnx.running_amax(attend(attention="attention_qat"), 3)

    @nnx.jit
    def step(model, x):
        gradient = nnx.grad(lambda m: jnp.square(m(x)).sum())(model)
        fp4nnx.update_amax(model)
        return nnx.to_pure_dict(gradient)

    expected = step(dynamic, X)
    jax.tree.map(np.testing.assert_array_equal, step(model, X), expected)
    first = fp4nnx.static_amaxes(model)
    assert first == fp4nnx.static_amaxes(fp4nnx.calibrate(dynamic, [X]))
    step(model, 4 * X)
    largest = fp4nnx.static_amaxes(model)
    assert float(largest["attention.q"]) > 3 * float(first["attention.q"])
    model.eval()
    step(model, 100 * X)
    assert fp4nnx.static_amaxes(model) == largest


@pytest.mark.slow
def test_each_layer_of_a_stack_has_its_own():
    @nnx.vmap(in_axes=0, out_axes=0)
    def stack(rngs):
        return nnx.MultiHeadAttention(2, 32, decode=False, rngs=rngs)

    class Net(nnx.Module):
        def __init__(self):
            self.blocks = stack(nnx.Rngs(0).split(3))

        def __call__(self, x):
            return nnx.scan(lambda x, block: block(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(
                x, self.blocks
            )

    def net():
        return fp4nnx.apply_recipe(Net(), "baseline", attention="attention_naive")

    model = fp4nnx.calibrate(net(), [X])
    amaxes = fp4nnx.static_amaxes(model)
    assert {amax.shape for amax in amaxes.values()} == {(3,)}
    np.testing.assert_array_equal(run(model, X), run(net(), X))


def test_mistakes(calibrated):
    static = fp4.TensorSpec(amax="static")
    forward = fp4.AttentionRecipe(name="mine", qk=fp4.Recipe(name="s", fprop=(static, None)))
    with pytest.raises(ValueError, match="amax='static' for q, and no amax: calibrate the model"):
        attend(attention=forward)(X)
    backward = fp4.Recipe(name="g", dgrad=(static, None))
    mine = fp4.AttentionRecipe(name="mine", pv=backward)
    with pytest.raises(ValueError, match=r"'mine' takes an amax of pv\.dgrad\.g from outside"):
        attend(attention=mine)
    with pytest.raises(ValueError, match=r"'attention\.q' has amax='static' for q, and no amax"):
        fp4nnx.pack(attend("forward_only", forward))
    with pytest.raises(ValueError, match=r"amaxes are given for attention\.x"):
        fp4nnx.set_static_amaxes(attend(), {"attention.x": 3.0})
