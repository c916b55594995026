"""What the contract is for: operations and recipes, and what computes one with the other."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fp4jax as fp4
from fp4jax.ops.recipe import ROLES
from tests.checks import Results, three_gemms

TOLERANCE = 2e-6
KEY = jax.random.key(11)


@dataclasses.dataclass(frozen=True)
class Op:
    """``call(x, w, recipe=, key=)``, and shapes; the first axis of x and of y is a batch.

    One that is not ``bilinear`` in x and w has a softmax between several products.
    """

    call: Callable[..., jax.Array]
    x: tuple[int, ...]
    w: tuple[int, ...]
    bilinear: bool = True


def attend(x, w, *, recipe, key=None, amax=None):
    """Attention with q of x, and k and v of w, both of whose products have the recipe."""
    recipe = fp4.get_recipe(recipe)
    both = fp4.AttentionRecipe(name=recipe.name, qk=recipe, pv=recipe)
    given = None if amax is None else {f"{p}.{r}": a for p in ("qk", "pv") for r, a in amax.items()}
    # Sharded as x is.
    kv = jnp.zeros_like(x[:, :1]) + w[None]
    # Logits of integers up to 7, so that many keys have a weight.
    return fp4.attention(x, kv, kv, scale=1 / 64, recipe=both, key=key, amax=given)


# Blocks of 16 end inside every axis, and cross the borders of eight shards of the batch.
OPS = {
    "dot_general": Op(
        lambda x, w, **options: fp4.dot_general(x, w, (((2,), (0,)), ((), ())), **options),
        (8, 3, 18),
        (18, 20),
    ),
    "conv_general_dilated": Op(
        lambda x, w, **options: fp4.conv_general_dilated(
            x, w, (2, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
        ),
        (8, 4, 3, 18),
        (3, 2, 18, 20),
    ),
    "conv_transpose": Op(
        lambda x, w, **options: fp4.conv_transpose(x, w, (2, 1), "SAME", **options),
        (8, 2, 3, 18),
        (4, 2, 18, 20),
    ),
    "einsum": Op(
        lambda x, w, **options: fp4.einsum("b...i,iuv->bv...u", x, w, **options),
        (8, 3, 18),
        (18, 4, 5),
    ),
    "attention": Op(attend, (8, 3, 2, 18), (17, 2, 18), bilinear=False),
}

ROW, EXAMPLE, STATIC = (fp4.TensorSpec(amax=amax) for amax in ("row", "example", "static"))
STATIC_SR = fp4.TensorSpec(amax="static", rounding="stochastic", hadamard=True)
STATIC_RHT = fp4.TensorSpec(amax="static", hadamard=True)

#: What amax spans: recipes, and what a call takes besides.
AMAX = {
    "rows": (
        fp4.Recipe(name="rows", fprop=(EXAMPLE, ROW), dgrad=(EXAMPLE, ROW), wgrad=(ROW, ROW)),
        {},
    ),
    "static": (
        fp4.Recipe(
            name="static",
            fprop=(STATIC, STATIC),
            dgrad=(STATIC, STATIC),
            wgrad=(STATIC_RHT, STATIC_SR),
        ),
        {"amax": {role: 5.0 + i for i, role in enumerate(ROLES)}},
    ),
    # Beyond it x is clamped, and has no gradient.
    "learned": (fp4.get_recipe("forward_only+lsq"), {"amax": {"fprop.x": 5.0}}),
}

#: An own format, which nothing but this line knows.
E3M2 = fp4.Format("e3m2", fp4.Grid(3, 2), 8, "e8m0")

#: Other formats: recipes, and what a call takes besides.
FORMATS = {
    "mxfp4": (fp4.with_format("2d+rht+sr", "mxfp4"), {}),
    "mxfp8": (fp4.with_format("chain_rule", "mxfp8"), {}),
    "int4": (fp4.with_format("sr", "int4"), {}),
    "own_format": (fp4.with_format("2d+rht", E3M2), {}),
    "int8_static": (
        fp4.with_format(AMAX["static"][0], "int8"),
        {"amax": {role: 40.0 + i for i, role in enumerate(ROLES)}},
    ),
    "fp8_rows": (fp4.with_format(AMAX["rows"][0], "fp8"), {}),
}
#: Recipes that are not named ones.
FURTHER = AMAX | FORMATS
#: Those in the default suite, with an operation.
FAST_FORMATS = {("own_format", "dot_general")}
#: What attention has there: its own diagonal.
FAST_ATTENTION = ("chain_rule",)


class Contract:
    """One recipe with one operation."""

    def __init__(self, op: Op, recipe: fp4.Recipe, options: Mapping[str, Any]):
        self.op, self.recipe, self.options = op, recipe, options
        self.traces = 0
        # compiled once, used by most tests; equal recipes must share it
        self.compiled = jax.jit(self.run, static_argnames="recipe")

    def run(self, x, w, g, key, recipe=None) -> Results:
        """y, dx and dw."""
        self.traces += 1
        recipe = self.recipe if recipe is None else recipe
        options = {"recipe": recipe, "key": key, **self.options}
        return three_gemms(lambda x, w: self.op.call(x, w, **options))(x, w, g)

    def __call__(self, x, w, g, key=KEY) -> Results:
        return self.compiled(x, w, g, key, recipe=self.recipe)

    def data(self, seed: int = 0, dtype=np.float32):
        """x, w and g of small integers."""
        y = jax.eval_shape(
            lambda: self.op.call(jnp.zeros(self.op.x), jnp.zeros(self.op.w), recipe=0)
        )
        rng = np.random.default_rng(seed)
        return [jnp.asarray(rng.integers(-7, 8, s), dtype) for s in (self.op.x, self.op.w, y.shape)]


def is_slow(i: int, recipe: str, j: int, op: str) -> bool:
    """Of recipe number i with operation number j."""
    if op == "attention":
        return recipe not in FAST_ATTENTION
    if recipe in FORMATS:
        return (recipe, op) not in FAST_FORMATS
    return (i >= 8 and recipe not in ("rows", "static")) or i % (len(OPS) - 1) != j
