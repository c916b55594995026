"""Elementwise rules against JAX, each alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.deploy.onnx.functions import agrees, written

_X = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
_Y = np.random.default_rng(1).normal(size=(2, 3)).astype(np.float32)

ONE = {
    "neg": lax.neg,
    "abs": lax.abs,
    "exp": lax.exp,
    "sign": lax.sign,
    "floor": lax.floor,
    "ceil": lax.ceil,
    "tanh": lax.tanh,
    "logistic": lax.logistic,
    "erf": lax.erf,
    "sin": lax.sin,
    "cos": lax.cos,
    "round": jnp.round,
    "square": lax.square,
    "is_finite": lax.is_finite,
    "expm1": lax.expm1,
    "integer_pow": lambda x: lax.integer_pow(x, 3),
    "stop_gradient": lax.stop_gradient,
    "optimization_barrier": lax.optimization_barrier,
    "convert": lambda x: lax.convert_element_type(x, np.int32),
    "scalar": lambda x: x * np.float32(3) + np.float32(1),
    "clamp": lambda x: lax.clamp(np.float32(-0.5), x, np.float32(0.5)),
}
POSITIVE = {"log": lax.log, "sqrt": lax.sqrt, "rsqrt": lax.rsqrt, "log1p": lax.log1p}
TWO = {
    "add": lax.add,
    "sub": lax.sub,
    "mul": lax.mul,
    "div": lax.div,
    "max": lax.max,
    "min": lax.min,
    "pow": lambda x, y: lax.pow(lax.abs(x), y),
    "eq": lambda x, y: lax.eq(x, lax.round(y)),
    "ne": lax.ne,
    "lt": lax.lt,
    "le": lax.le,
    "gt": lax.gt,
    "ge": lax.ge,
    "logical": lambda x, y: ((x > 0) & (y > 0)) | ~(x < y) ^ (x > 1),
    "select": lambda x, y: lax.select(x > y, x, y),
}


@pytest.mark.parametrize("name", [n for n in TWO if n != "eq"])
def test_two_operands(name):
    agrees(TWO[name], _X, _Y)


def test_equal():
    agrees(lax.eq, _X, np.where(_Y > 0, _X, _Y))


@pytest.mark.parametrize("name", ONE)
def test_one_operand(name):
    agrees(ONE[name], _X)


@pytest.mark.parametrize("name", POSITIVE)
def test_one_positive_operand(name):
    agrees(POSITIVE[name], np.abs(_X) + np.float32(0.1))


def test_infinite_numbers_are_not_finite():
    x = np.array([1, np.inf, -np.inf, np.nan], np.float32)
    agrees(lax.is_finite, x)


def test_what_is_broadcast_is_written_small():
    bias = np.arange(3, dtype=np.float32)
    model = written(lambda x: x + jnp.broadcast_to(bias, x.shape), _X)
    assert [node.op_type for node in model.graph.node] == ["Add", "Identity"]
    assert sorted(list(t.dims) for t in model.graph.initializer) == [[1, 3]]
    agrees(lambda x: x + jnp.broadcast_to(bias, x.shape), _X)


def test_what_is_known_is_computed_while_it_is_written():
    model = written(lambda x: x * jax.nn.softmax(jnp.arange(3.0))[None], _X)
    assert [node.op_type for node in model.graph.node] == ["Mul", "Identity"]


def test_operands_of_broadcasts_meet():
    agrees(lambda x, y: jnp.exp(x[:, :, None] * np.float32(2)) + y[:, None, :1], _X, _Y)
