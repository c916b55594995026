"""The NNX adapters: Flax's layers with the baseline, and what is quantized."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import fp4jax as fp4
from fp4jax import nnx as fp4nnx
from fp4jax.nnx import RoundingKey, apply_recipe, report
from tests import initial
from tests.checks import relative_error
from tests.samples import assert_same_bits, sample

# float32 sums in another order; the gradient's own sums too
TOLERANCE = 5e-6

apply = functools.partial(apply_recipe, verbose=False)


MASK = np.random.default_rng(0).integers(0, 2, (3, 20, 18)).astype(np.float32)

# constructor, input shape
LAYERS = {
    "linear": (functools.partial(nnx.Linear, 20, 18), (3, 20)),
    "linear, no bias, no batch": (functools.partial(nnx.Linear, 20, 18, use_bias=False), (20,)),
    "linear, batches": (functools.partial(nnx.Linear, 20, 18), (2, 3, 2, 20)),
    "linear_general": (
        functools.partial(nnx.LinearGeneral, (5, 4), (3, 7), axis=(1, -1)),
        (2, 5, 3, 4),
    ),
    "linear_general, batch axis": (
        functools.partial(nnx.LinearGeneral, 20, 18, batch_axis={0: 2}),
        (2, 3, 20),
    ),
    "conv": (functools.partial(nnx.Conv, 20, 18, (3, 3)), (2, 5, 4, 20)),
    "conv, strides": (functools.partial(nnx.Conv, 20, 18, (4, 4), 2, padding=1), (2, 6, 8, 20)),
    "conv, circular": (
        functools.partial(nnx.Conv, 20, 18, (3, 2), padding="CIRCULAR"),
        (2, 5, 4, 20),
    ),
    "conv, reflect": (functools.partial(nnx.Conv, 20, 18, (3,), padding="REFLECT"), (2, 5, 20)),
    "conv, causal, dilated": (
        functools.partial(nnx.Conv, 20, 18, 3, padding="CAUSAL", kernel_dilation=2),
        (2, 7, 20),
    ),
    "conv, groups, 3d": (
        functools.partial(nnx.Conv, 20, 18, (2, 3, 2), feature_group_count=2, padding="VALID"),
        (2, 3, 4, 3, 20),
    ),
    "conv, mask, no bias": (
        functools.partial(nnx.Conv, 20, 18, (3,), mask=MASK, use_bias=False),
        (2, 5, 20),
    ),
    "conv, batches": (functools.partial(nnx.Conv, 20, 18, (3,)), (2, 3, 5, 20)),
    "conv, no batch": (
        functools.partial(nnx.Conv, 20, 18, (3,), input_dilation=2, padding=1),
        (5, 20),
    ),
    "conv_transpose": (
        functools.partial(nnx.ConvTranspose, 20, 18, (4, 4), (2, 2)),
        (2, 3, 4, 20),
    ),
    "conv_transpose, valid": (
        functools.partial(nnx.ConvTranspose, 20, 18, (3, 2), 2, padding="VALID"),
        (2, 3, 4, 20),
    ),
    "conv_transpose, one integer": (functools.partial(nnx.ConvTranspose, 20, 18, 3), (2, 5, 20)),
    "conv_transpose, explicit, dilated": (
        functools.partial(
            nnx.ConvTranspose, 20, 18, (3, 2), (2, 1), padding=((1, 2), (0, 1)), kernel_dilation=2
        ),
        (2, 3, 4, 20),
    ),
    "conv_transpose, 3d": (
        functools.partial(nnx.ConvTranspose, 20, 18, (2, 3, 2), 2, padding=1),
        (1, 2, 3, 2, 20),
    ),
    "conv_transpose, mask, no bias": (
        functools.partial(nnx.ConvTranspose, 20, 18, (3,), mask=MASK, use_bias=False),
        (2, 5, 20),
    ),
    "conv_transpose, batches": (functools.partial(nnx.ConvTranspose, 20, 18, (3,)), (2, 3, 5, 20)),
    "conv_transpose, no batch": (functools.partial(nnx.ConvTranspose, 20, 18, (3,), 2), (5, 20)),
    **{
        f"conv_transpose, circular {kernel}, strides {strides}, {flip=}": (
            functools.partial(
                nnx.ConvTranspose,
                20,
                18,
                kernel,
                strides,
                padding="CIRCULAR",
                transpose_kernel=flip,
            ),
            (2, 5, 4, 20),
        )
        for flip in (False, True)
        for kernel, strides in (((4, 3), (2, 1)), ((2, 5), (3, 2)), ((3, 9), (1, 2)))
    },
    "conv_transpose, same, flip": (
        functools.partial(nnx.ConvTranspose, 20, 18, (4,), 2, transpose_kernel=True),
        (2, 5, 20),
    ),
    "attention": (functools.partial(nnx.MultiHeadAttention, 2, 20, decode=False), (2, 5, 20)),
}


def outputs(model: nnx.Module, x):
    """The model's output, and the gradients of its parameters and input for a fixed cotangent."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def run(params, x):
        y, vjp = jax.vjp(lambda params, x: nnx.merge(graphdef, params, rest)(x), params, x)
        return y, *vjp(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

    return run(params, x)


def assert_same(ours, theirs):
    jax.tree.map(lambda a, b: np.testing.assert_array_less(_error(a, b), TOLERANCE), ours, theirs)


def _error(a, b):
    assert a.dtype == b.dtype
    return relative_error(a, b)


#: Those whose arguments reach fp4jax as others' do.
SLOW = [
    name
    for name in LAYERS
    if name in ("conv", "conv, reflect", "conv_transpose, valid", "conv_transpose, one integer")
    or name.endswith(("no batch", "batches"))
    or name.startswith("conv_transpose, circular") != ("(3, 9)" in name)
]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in LAYERS]
)
def test_baseline_is_flax(name):
    """Outputs and gradients are Flax's; those of a recipe are not, and have the same shapes."""
    make, shape = LAYERS[name]
    layer = make(rngs=nnx.Rngs(0), kernel_init=initial.kernel)
    x = jnp.asarray(sample("normal", shape))
    bias = getattr(layer, "bias", None)
    if bias is not None:
        bias.set_value(jnp.ones_like(bias.get_value()))
    theirs = outputs(layer, x)
    before = nnx.state(layer, nnx.Param)
    assert apply(layer, "baseline") is layer
    assert_same(outputs(layer, x), theirs)
    quantized = outputs(apply(layer, "full"), x)
    assert jax.tree.map(jnp.shape, quantized) == jax.tree.map(jnp.shape, theirs)
    assert _error(quantized[0], theirs[0]) > 0.01
    jax.tree.map(assert_same_bits, nnx.state(layer, nnx.Param), before)


def test_half_precision_layers_keep_their_dtype():
    """dtype and preferred_element_type reach the operation."""
    x = jnp.asarray(sample("normal", (2, 5, 20)), jnp.bfloat16)
    for make in (
        functools.partial(nnx.Conv, 20, 18, (3,)),
        functools.partial(nnx.ConvTranspose, 20, 18, (3,)),
        functools.partial(nnx.Linear, 20, 18),
    ):
        options = {"dtype": jnp.bfloat16, "use_bias": False, "rngs": nnx.Rngs(0)}
        assert apply(make(**options), "full")(x).dtype == jnp.bfloat16
        wide = apply(make(**options, preferred_element_type=jnp.float32), "full")
        assert wide(x).dtype == jnp.float32


class Net(nnx.Module):
    """Something of everything that is and that is not quantized."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Conv(3, 18, (3, 3), rngs=rngs)
        self.norm = nnx.LayerNorm(18, rngs=rngs)
        self.blocks = nnx.List([nnx.Conv(18, 18, (2, 1), rngs=rngs) for _ in range(2)])
        self.attention = nnx.MultiHeadAttention(2, 18, decode=False, rngs=rngs)
        self.up = nnx.ConvTranspose(18, 8, (4, 4), 2, rngs=rngs)
        self.head = nnx.Linear(8, 1, rngs=rngs)

    def __call__(self, x):
        x = self.norm(self.first(x))
        for block in self.blocks:
            x = x + nnx.relu(block(x))
        flat = x.reshape(x.shape[0], -1, x.shape[-1])
        x = x + self.attention(flat).reshape(x.shape)
        return self.head(nnx.relu(self.up(x)))


X = sample("normal", (2, 4, 4, 3))
PATHS = [
    "attention.key",
    "attention.out",
    "attention.query",
    "attention.value",
    "blocks.0",
    "blocks.1",
    "first",
    "head",
    "up",
]


def net(recipe=None, seed: int = 0, **options) -> Net:
    model = Net(nnx.Rngs(seed))
    return model if recipe is None else apply(model, recipe, **options)


@nnx.jit
def forward(model):
    """Compiled once for all models with equal recipes."""
    return model(X)


def precisions(model) -> dict[str, str]:
    return {layer.path: layer.precision for layer in report(model).layers}


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        ((), []),
        ("head", ["head"]),
        ("blocks", ["blocks.0", "blocks.1"]),
        ([r"blocks\.1", "first"], ["blocks.1", "first"]),
        (("attention.(key|query)$",), ["attention.key", "attention.query"]),
        # from the start of the path
        ("(?!.*up)", [path for path in PATHS if path != "up"]),
    ],
)
def test_keep(keep, kept):
    model = net("full", keep=keep)
    assert [p for p, precision in precisions(model).items() if precision != "full"] == kept


def test_kept_layers_are_computed_in_high_precision():
    everything = net("full", keep=".*")
    assert relative_error(forward(everything), forward(net())) < TOLERANCE
    assert relative_error(forward(net("full", keep="up")), forward(net("full"))) > 0.001


@pytest.mark.parametrize("keep", ["lock", ("head", "lock"), r"blocks\.2"])
def test_keep_that_matches_nothing(keep):
    model = net()
    message = rf"matches no layer; the layers are: {', '.join([*PATHS, 'attention.attention'])}\."
    with pytest.raises(ValueError, match=message):
        apply(model, "full", keep=keep)
    assert report(model).quantized == ()


def test_keep_of_a_model_that_is_one_layer():
    with pytest.raises(ValueError, match=r"keep='up' matches no layer: the model is one layer"):
        apply(nnx.Linear(4, 4, rngs=nnx.Rngs(0)), "full", keep="up")
    assert not report(apply(nnx.Linear(4, 4, rngs=nnx.Rngs(0)), "full", keep="")).quantized


def test_keep_that_is_no_pattern():
    with pytest.raises(ValueError, match=r"keep='\(' is no regular expression: "):
        apply(net(), "full", keep="(")


def test_another_recipe_replaces_the_first():
    model = net("2d+rht+sr")
    params = nnx.state(model, nnx.Param)
    apply(model, "full")
    assert precisions(model) == precisions(net("full"))
    assert not jax.tree.leaves(nnx.state(model, RoundingKey))
    assert_same_bits(forward(model), forward(net("full")))
    apply(model, "baseline")
    assert not report(model).quantized
    assert_same_bits(forward(model), forward(net("baseline")))
    jax.tree.map(assert_same_bits, nnx.state(model, nnx.Param), params)


def test_kept_layers_stay_as_they_are():
    """So that calls that keep one another's layers give each layer its own recipe."""
    model = net("full", keep=["up", "head"])
    apply(model, "sr", keep=["(?!up$)"])
    expected = dict.fromkeys(PATHS, "full") | {"up": "sr", "head": "high precision"}
    assert precisions(model) == expected
    assert len(jax.tree.leaves(nnx.state(model, RoundingKey))) == 1
    apply(model, "baseline", keep="up")
    assert [layer.path for layer in report(model).quantized] == ["up"]


def test_the_type_of_a_model_is_kept():
    """What type checkers know of a layer, they know of the quantized one."""
    layer: nnx.Linear = apply_recipe(nnx.Linear(4, 2, rngs=nnx.Rngs(0)), "full")
    assert layer.kernel.shape == (4, 2)


def test_a_recipe_of_ones_own():
    recipe = fp4.Recipe(name="weights only", fprop=(None, fp4.TensorSpec()))
    model = net(recipe)
    assert set(precisions(model).values()) == {"weights only"}
    assert relative_error(forward(model), forward(net())) > 0.001


def test_clones_are_independent():
    model = net("full")
    clone = apply(nnx.clone(model), "baseline")
    assert len(report(model).quantized) == 9
    assert not report(clone).quantized


def test_parameters_and_their_names_stay():
    """What optimizers and checkpoints of parameters see."""
    before, after = (nnx.state(model, nnx.Param) for model in (net(), net("2d+rht+sr")))
    assert jax.tree.structure(before) == jax.tree.structure(after)
    jax.tree.map(assert_same_bits, before, after)


def test_abstract_models():
    """Shapes are enough, inside and outside eval_shape."""
    inside = nnx.eval_shape(lambda: net("2d+rht+sr"))
    outside = apply(nnx.eval_shape(net), "2d+rht+sr")
    assert precisions(inside) == precisions(outside) == precisions(net("2d+rht+sr"))


def test_transposed_convolution_before_a_recipe():
    """fp4jax's layer is Flax's as long as no recipe is applied."""
    arguments, x = (20, 18, (3,)), jnp.asarray(sample("normal", (2, 5, 20)))
    ours, theirs = (
        cls(*arguments, rngs=nnx.Rngs(0)) for cls in (fp4nnx.ConvTranspose, nnx.ConvTranspose)
    )
    assert relative_error(ours(x), theirs(x)) < TOLERANCE


def test_models_that_cannot_be_quantized():
    with pytest.raises(ValueError, match="no layer of LayerNorm can be quantized; apply_recipe"):
        apply(nnx.LayerNorm(3, rngs=nnx.Rngs(0)), "full")
    with pytest.raises(ValueError, match="no recipe 'nvfp4'; known names: "):
        apply(net(), "nvfp4")


@pytest.mark.parametrize("make", [nnx.LSTMCell, pytest.param(nnx.GRUCell, marks=pytest.mark.slow)])
def test_recurrent_cells(make):
    """Baseline is Flax's; every projection is quantized, also inside nnx.RNN's scan."""
    x = sample("normal", (2, 3, 20))

    def rnn(recipe=None):
        model = nnx.RNN(make(20, 18, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0))
        return model if recipe is None else apply(model, recipe)

    def gradient(model):
        return nnx.jit(nnx.grad(lambda model: jnp.square(model(x)).sum()))(model)

    assert_same(rnn("baseline")(x), rnn()(x))
    assert_same(gradient(rnn("baseline")), gradient(rnn()))
    quantized = rnn("2d+rht+sr")
    assert len(report(quantized).quantized) == len(report(rnn()).layers) >= 2
    assert relative_error(quantized(x), rnn()(x)) > 0.001
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(gradient(quantized)))
