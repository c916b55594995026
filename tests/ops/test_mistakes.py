"""What users get wrong, and what they are told.

In an interpreter of its own: here annotations are checked before fp4jax sees the arguments.
"""

import functools
import textwrap

import pytest

from tests.test_package import run_python

SETUP = """
    import jax, jax.numpy as jnp, fp4jax as fp4
    from fp4jax import TensorSpec, Recipe, get_recipe
    from fp4jax.nnx import apply_recipe, pack, refresh_keys, report
    from flax import linen, nnx
    x, dims = jnp.ones((16, 16)), (((1,), (0,)), ((), ()))
    layout = ("NHWC", "HWIO", "NHWC")
    sr, TILE = TensorSpec(rounding="stochastic"), TensorSpec(block=(16, 16))
    model = apply_recipe(nnx.Linear(16, 16, rngs=nnx.Rngs(0)), "sr", verbose=False)
    long = nnx.Sequential(*[nnx.Linear(16, 16, rngs=nnx.Rngs(0)) for _ in range(12)])
"""
ONE_KEY = "key has shape (2,); pass one key, or several by jax.vmap."
NO_MODEL = "; fp4jax.nnx takes a flax.nnx.Module (for Linen see fp4jax.linen)."
A_PAIR = "; give a pair of TensorSpec or None, one for each operand."
NO_AXIS = "; give an int, or two of them for 16x16 blocks."
NO_PATTERN = "; give regular expressions of paths, () for none."
CAST = "NVFP4 quantizes float32, bfloat16 and float16. Cast it first, for example "

# What is written, and how the message begins.
MISTAKES = {
    # keys
    "fp4.fake_quantize(x, sr, key=0)": "key is 0; pass jax.random.key(0).",
    "fp4.quantize(x, sr, key=0)": "key is 0; pass jax.random.key(0).",
    "fp4.dot_general(x, x, dims, recipe='sr', key=0)": "key is 0; pass jax.random.key(0).",
    "fp4.quantize(x, sr, key=jnp.ones(2))": "key is an array of float32; pass jax.random.key(0).",
    "fp4.quantize(x, sr, key=jnp.uint32(2))": "key is an array of uint32; pass",
    "fp4.quantize(x, sr, key=jax.random.split(jax.random.key(0)))": ONE_KEY,
    "fp4.dot_general(x, x, dims, recipe='sr', key=jax.random.split(jax.random.key(0)))": ONE_KEY,
    "fp4.conv_transpose(x[None], x[None], (1,), 'SAME', recipe='sr', key=3)": "key is 3; pass",
    "fp4.quantize(x, sr, key=jax.random.split(jax.random.PRNGKey(0)))": "key has shape (2, 2);",
    # specs and axes
    "TensorSpec(block=16)": "TensorSpec.block is 16; allowed: (1, 16), (16, 16).",
    "Recipe(name='own', fprop=sr)": f"Recipe.fprop is of type TensorSpec{A_PAIR}",
    "Recipe(name='own', wgrad=None)": f"Recipe.wgrad is None{A_PAIR}",
    "Recipe(name='own', dgrad=('R', 'R'))": f"Recipe.dgrad is ('R', 'R'){A_PAIR}",
    "fp4.quantize(x, 'nearest')": "spec is 'nearest'; give a TensorSpec, for example TensorSpec().",
    "fp4.quantize(x, get_recipe(1))": (
        "spec is of type Recipe; give a TensorSpec, did you mean recipe.fprop[0]?"
    ),
    "fp4.quantize(x, TensorSpec(), axis=None)": f"axis is None{NO_AXIS}",
    "fp4.quantize(x, TensorSpec(), axis=1.0)": f"axis is 1.0{NO_AXIS}",
    "fp4.fake_quantize(x, TensorSpec(), axis='x')": f"axis is 'x'{NO_AXIS}",
    "fp4.fake_quantize(x, TILE, axis=(0, None))": f"axis is (0, None){NO_AXIS}",
    # operands
    "fp4.dot_general(x.astype(int), x, dims, recipe=1)": (
        f"lhs has dtype int32; {CAST}lhs.astype(jnp.float32)."
    ),
    "fp4.conv_transpose(x[None], x[None].astype(int), (1,), 'SAME', recipe=1)": (
        f"rhs has dtype int32; {CAST}rhs.astype(jnp.float32)."
    ),
    # models and recipes
    "apply_recipe(model, None)": "no recipe None; known names: baseline, full,",
    "apply_recipe('full', long)": "no recipe of type Sequential; known names: baseline, full,",
    "apply_recipe({'kernel': 1}, 'full')": f"model is a dict{NO_MODEL}",
    "apply_recipe(linen.Dense(4), 'full')": f"model is a Dense{NO_MODEL}",
    "report({'kernel': 1})": f"model is a dict{NO_MODEL}",
    "pack({'kernel': 1})": "model is a dict; pack takes a flax.nnx.Module.",
    "refresh_keys(None, 0, 0)": f"model is a NoneType{NO_MODEL}",
    "apply_recipe(long, 'full', keep=0)": f"keep is 0{NO_PATTERN}",
    "apply_recipe(long, 'full', keep=None)": f"keep is None{NO_PATTERN}",
    "apply_recipe(long, 'full', keep=[0])": f"keep is [0]{NO_PATTERN}",
    "refresh_keys(model, 2026, 1.5)": "step is 1.5; give an integer.",
    "refresh_keys(model, 2026, jnp.arange(2))": "step is Array([0, 1], dtype=int32); give an int",
    "refresh_keys(model, 2.5, 1)": "seed is 2.5; pass jax.random.key(0).",
    "refresh_keys(model, jnp.float32(2), 1)": "seed is an array of float32; pass",
    "refresh_keys(model, jax.random.split(jax.random.key(0)), 1)": f"seed{ONE_KEY[3:]}",
}


@functools.cache
def messages() -> dict[str, str]:
    """The error of each mistake, all found in one interpreter."""
    code = f"""
for call in {list(MISTAKES)!r}:
    try:
        eval(call)
    except ValueError as error:
        print(str(error).replace(chr(10), " "))
    except Exception as error:
        print(repr(error).replace(chr(10), " "))
    else:
        print("no error")
"""
    lines = run_python(textwrap.dedent(SETUP) + code).splitlines()
    return dict(zip(MISTAKES, lines, strict=True))


@pytest.mark.parametrize("call", MISTAKES)
def test_mistake_is_explained(call):
    assert messages()[call].startswith(MISTAKES[call])
