"""JAX's transformations of convolutions that quantize nothing, or only fprop: as lax's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec as P

import fp4jax as fp4
from tests.accelerator import use_forms_of_accelerators
from tests.checks import assert_same_sums, three_gemms

LAYOUT = ("NHWC", "HWIO", "NHWC")
CONVOLUTIONS = {
    "conv_general_dilated": lambda module, x, w, **options: module.conv_general_dilated(
        x, w, (2, 1), ((1, 2), (1, 1)), dimension_numbers=LAYOUT, **options
    ),
    "conv_transpose": lambda module, x, w, **options: module.conv_transpose(
        x, w, (2, 1), "SAME", dimension_numbers=LAYOUT, **options
    ),
}
SHAPES = (4, 5, 3, 6), (3, 2, 6, 8)
BASELINES: list[fp4.Recipe] = []


def ours_and_theirs(name: str):
    """The function of the baseline recipe, one that JAX has not traced yet, and lax's."""
    recipe = fp4.Recipe(name=f"nothing {len(BASELINES)}")
    BASELINES.append(recipe)
    convolve = CONVOLUTIONS[name]
    ours = lambda x, w: convolve(fp4, x, w, recipe=recipe)  # noqa: E731
    return ours, lambda x, w: convolve(lax, x, w)


def normal(*shapes: tuple[int, ...]) -> list[jax.Array]:
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]


every_convolution = pytest.mark.parametrize("name", CONVOLUTIONS)
every_platform = pytest.mark.parametrize("accelerator", [False, True])


def jvp(f):
    return lambda x, w, dx, dw: jax.jvp(f, (x, w), (dx, dw))


def linearized(f):
    return lambda x, w, dx, dw: jax.linearize(lambda w: f(x, w), w)[1](dw)


def forward_over_reverse(f):
    def gradients(x, w):
        return jax.grad(lambda x, w: (f(x, w) ** 3).sum(), (0, 1))(x, w)

    return lambda x, w, dx, dw: jax.jvp(gradients, (x, w), (dx, dw))[1]


def reverse_over_reverse(f):
    def penalty(x, w):
        dx, dw = jax.grad(lambda x, w: (f(x, w) ** 2).sum(), (0, 1))(x, w)
        return (dx**2).sum() + (dw**2).sum()

    return lambda x, w, dx, dw: jax.grad(penalty, (0, 1))(x, w)


def remat(f):
    return lambda x, w, dx, dw: jax.grad(lambda x, w: (jax.checkpoint(f)(x, w) ** 2).sum(), (0, 1))(
        x, w
    )


def per_example(f):
    def loss(w, x):
        return (f(x[None], w) ** 2).sum()

    return lambda x, w, dx, dw: jax.vmap(jax.grad(loss), (None, 0))(w, x)


def of_several_kernels(f):
    def loss(x, w):
        return (jax.vmap(f, (None, 0))(x, w) ** 2).sum()

    return lambda x, w, dx, dw: jax.grad(loss, (0, 1))(x, jnp.stack([w, dw]))


TRANSFORMS = (
    jvp,
    linearized,
    forward_over_reverse,
    reverse_over_reverse,
    remat,
    per_example,
    of_several_kernels,
)


@every_convolution
@every_platform
def test_baseline_has_every_transform_of_lax(name, accelerator, monkeypatch):
    """All in one program, which takes a fraction of the time of seven."""
    if accelerator:
        use_forms_of_accelerators(monkeypatch)
    ours, theirs = ours_and_theirs(name)
    arrays = normal(*SHAPES, *SHAPES)

    def run(*arrays):
        return [[transform(f)(*arrays) for f in (ours, theirs)] for transform in TRANSFORMS]

    for transform, (actual, expected) in zip(TRANSFORMS, jax.jit(run)(*arrays), strict=True):
        same = functools.partial(assert_same_sums, what=transform.__name__)
        jax.tree.map(same, actual, expected)


@every_convolution
@every_platform
@pytest.mark.parametrize("recipe", ["baseline", "forward_only", "chain_rule"])
def test_replicated_weights_in_shard_map(name, accelerator, recipe, monkeypatch):
    """With check_vma: their gradient is the sum over the shards."""
    if accelerator:
        use_forms_of_accelerators(monkeypatch)
    recipe = fp4.get_recipe(recipe)
    own = fp4.Recipe(
        name=f"{recipe.name} {accelerator}", fprop=recipe.fprop, residuals=recipe.residuals
    )
    step = three_gemms(lambda x, w: CONVOLUTIONS[name](fp4, x, w, recipe=own))
    x, w = normal(*SHAPES)
    (g,) = normal(jax.eval_shape(lambda: CONVOLUTIONS[name](lax, x, w)).shape)
    sharded = jax.shard_map(
        lambda *arrays: tuple(step(*arrays)),
        mesh=jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,)),
        in_specs=(P("data"), P(), P("data")),
        out_specs=(P("data"), P("data"), P()),
    )
    y, dx, dw = jax.jit(sharded)(x, w, g)
    halves = [jax.jit(step)(x[half], w, g[half]) for half in (slice(2), slice(2, 4))]
    assert_same_sums(y, jnp.concatenate([half.y for half in halves]))
    assert_same_sums(dx, jnp.concatenate([half.dx for half in halves]))
    assert_same_sums(dw, halves[0].dw + halves[1].dw)


@every_convolution
def test_without_jit_and_with_donation(name):
    ours, theirs = ours_and_theirs(name)
    x, w = normal(*SHAPES)
    gradients = lambda f: jax.grad(lambda x, w: (f(x, w) ** 2).sum(), (0, 1))  # noqa: E731
    expected = gradients(theirs)(x, w)
    with jax.disable_jit():
        jax.tree.map(assert_same_sums, gradients(ours)(x, w), expected)
    donating = jax.jit(gradients(ours), donate_argnums=(0, 1))
    jax.tree.map(assert_same_sums, donating(x + 0, w + 0), expected)
