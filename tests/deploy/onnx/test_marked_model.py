"""What is quantized and no packed layer: attention, which is written, and what is refused."""

import collections

import pytest
from flax import nnx

from fp4jax import AttentionRecipe, Recipe, TensorSpec
from fp4jax.deploy.onnx import running
from fp4jax.deploy.onnx.dialects import DIALECTS
from fp4jax.deploy.onnx.model import to_onnx
from fp4jax.deploy.onnx.verification import compare
from fp4jax.nnx.operations import AttentionOp
from tests.deploy.onnx.packed_layers import images, network, packed
from tests.deploy.onnx.test_models import NETWORKS

TILES = Recipe(name="tiles", fprop=(TensorSpec(), TensorSpec(block=(16, 16))))


class Attend(nnx.Module):
    """An attention of Flax's, of 3 tokens."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.attend = nnx.MultiHeadAttention(2, 8, qkv_features=40, decode=False, rngs=rngs)

    def __call__(self, x):
        return self.attend(x)


def test_attention_is_quantized_as_the_file_runs():
    x = images(3, 8)
    model = packed(Attend(), "forward_only", attention="attention_qat")
    written = to_onnx(model, (3, 8), DIALECTS["onnx-portable"])
    forms = collections.Counter(call.form for call in written.calls)
    assert forms == {"dot": 4, "values": 4}
    found = compare(written, model, x, running.runtime)
    assert found.worst[1] <= 1e-5, found.worst
    # the model itself is as it was
    assert isinstance(model.attend.attention_fn, AttentionOp)


@pytest.mark.slow
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("recipe", ["attention_sr", "rotated"])
@pytest.mark.parametrize("name", ["vit", "swin", "swin_unetr3d"])
def test_attention_of_networks(name, recipe, dialect):
    arch, size, options = NETWORKS[name]
    if recipe == "rotated":
        recipe = AttentionRecipe(name="rotated", qk="forward_only+rht")
    known = DIALECTS[dialect].with_half("float32")
    model, x = network(arch, size, "full", static=known.static, attention=recipe, **options)
    written = to_onnx(model, x.shape[1:], known)
    run = running.runtime if known.runs_in_onnxruntime else running.reference
    found = compare(written, model, x, run)
    assert found.worst[1] <= 1e-5, found.worst


def test_attention_recipes_without_a_form_are_refused():
    model = packed(Attend(), "full", attention=AttentionRecipe(name="tiled", qk=TILES))
    with pytest.raises(ValueError, match=r"attention 'attend.attention' .* has 16x16 tiles"):
        to_onnx(model, (3, 8), DIALECTS["onnx-portable"])


class Two(nnx.Module):
    def __init__(self, second):
        self.a = nnx.Linear(16, 16, rngs=nnx.Rngs(0))
        self.b = second

    def __call__(self, x):
        return self.b(self.a(x))


ONLY_X = Recipe(name="only_x", fprop=(TensorSpec(), None))


@pytest.mark.parametrize(
    ("second", "recipe", "message"),
    [
        (
            lambda: nnx.Linear(16, 16, rngs=nnx.Rngs(1)),
            ONLY_X,
            r"layer 'b' has the recipe 'only_x' and is not packed: an export has 4-bit weights",
        ),
        (
            lambda: nnx.Einsum("bk,kn->bn", (16, 16), rngs=nnx.Rngs(1)),
            "full",
            r"layer 'b' .* is not packed, for it is an nnx\.Einsum, .*\(keep='b'\)",
        ),
        (
            lambda: nnx.vmap(lambda rngs: nnx.Linear(16, 16, rngs=rngs))(nnx.Rngs(0).split(2)),
            "full",
            r"layer 'b' is a stack of 2 layers .* give each layer a module of its own",
        ),
    ],
)
def test_layers_without_a_form_are_refused(second, recipe, message):
    model = packed(Two(second()), {"a": "full", "b": recipe})
    with pytest.raises(ValueError, match=message):
        to_onnx(model, (3, 16), DIALECTS["onnx-portable"])
