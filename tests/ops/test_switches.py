"""Switches of operands: each one changes its own product and nothing else, in one program."""

import jax
import jax.numpy as jnp
import pytest

import fp4jax as fp4
from fp4jax.ops.recipe import ROLES, Recipe
from tests.checks import SUMS, relative_error, three_gemms
from tests.samples import normal

R, TILE, RHT = fp4.TensorSpec(), fp4.TensorSpec(block=(16, 16)), fp4.TensorSpec(hadamard=True)
# fprop and dgrad may share w's codes, wgrad is rotated.
RECIPE = Recipe(name="tiles and rotation", fprop=(R, TILE), dgrad=(R, TILE), wgrad=(RHT, RHT))
M, K, N = 32, 48, 16


def only(*roles: str) -> dict[str, jax.Array]:
    return {role: jnp.bool_(role in roles) for role in ROLES}


@pytest.fixture(scope="module")
def dot():
    """dot(x, w, g, switches) -> (y, dx, dw), compiled once."""
    dims = (((1,), (0,)), ((), ()))

    def f(x, w, switches):
        return fp4.dot_general(x, w, dims, recipe=RECIPE, switches=switches)

    return jax.jit(three_gemms(f))


@pytest.fixture(scope="module")
def tensors():
    return normal(1, M, K), normal(2, K, N), normal(3, M, N)


@pytest.mark.parametrize("role", ROLES)
def test_one_operand_alone(dot, tensors, role):
    """Against the formula of its product, with this operand fake-quantized and no other."""
    x, w, g = tensors
    q = {
        "fprop.x": lambda: fp4.fake_quantize(x, R, -1),
        "fprop.w": lambda: fp4.fake_quantize(w, TILE, (1, 0)),
        "dgrad.g": lambda: fp4.fake_quantize(g, R, -1),
        "dgrad.w": lambda: fp4.fake_quantize(w, TILE, (1, 0)),
        "wgrad.x": lambda: fp4.fake_quantize(x, RHT, 0),
        "wgrad.g": lambda: fp4.fake_quantize(g, RHT, 0),
    }
    plain = {"x": x, "w": w, "g": g}
    of = {other: q[role]() if other == role else plain[other[-1]] for other in ROLES}
    expected = {
        "y": of["fprop.x"] @ of["fprop.w"],
        "dx": of["dgrad.g"] @ of["dgrad.w"].T,
        "dw": of["wgrad.x"].T @ of["wgrad.g"],
    }
    found = dot(x, w, g, only(role))._asdict()
    exact = {"y": x @ w, "dx": g @ w.T, "dw": x.T @ g}
    for name, value in found.items():
        assert relative_error(value, expected[name]) < SUMS
    (changed,) = [name for name in found if relative_error(found[name], exact[name]) > 1e-3]
    assert changed == {"fprop": "y", "dgrad": "dx", "wgrad": "dw"}[role.split(".")[0]]


def test_all_on_is_the_recipe_bit_for_bit(dot, tensors):
    every, none = dot(*tensors, only(*ROLES)), dot(*tensors, None)
    for a, b in zip(every, none, strict=True):
        assert (a == b).all()


def test_a_convolution_by_taps():
    """wgrad quantizes what each tap sees; there x is switched off tap by tap."""
    x, w = normal(1, 2, 6, 6, 16), normal(2, 3, 3, 16, 16)
    layout = ("NHWC", "HWIO", "NHWC")

    def f(recipe):
        def conv(x, w, switches=None):
            return fp4.conv_general_dilated(
                x, w, (1, 1), "SAME", dimension_numbers=layout, recipe=recipe, switches=switches
            )

        return jax.jit(three_gemms(conv))

    g = normal(3, 2, 6, 6, 16)
    full = fp4.get_recipe("full")
    alone = Recipe(name="x of wgrad", wgrad=(full.wgrad[0], None))
    for a, b in zip(f(full)(x, w, g, only("wgrad.x")), f(alone)(x, w, g), strict=True):
        assert relative_error(a, b) < SUMS


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"fprop.y": True}, "mapping of roles"),
        ({"fprop.x": 1}, "the switch of fprop.x is int32"),
        ({"fprop.x": jnp.ones(2, bool)}, r"bool\[2\]; give one bool"),
    ],
)
def test_bad_switches(given, message):
    with pytest.raises(ValueError, match=message):
        fp4.dot_general(
            jnp.ones((2, 16)),
            jnp.ones((16, 2)),
            (((1,), (0,)), ((), ())),
            recipe="full",
            switches=given,
        )
