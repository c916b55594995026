"""Programs within programs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fp4jax.core.platform import by_platform
from fp4jax.deploy.onnx.walker import UnsupportedError, rule
from tests.deploy.onnx.functions import agrees, written

_X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


def _scanned(x, reverse):
    def step(carry, row):
        carry = carry * np.float32(0.5) + row
        return carry, carry.sum()

    return lax.scan(step, jnp.zeros(4), x, reverse=reverse)


@pytest.mark.parametrize(
    "function",
    [
        jax.jit(lambda x: x + x),
        jax.checkpoint(lambda x: x * x),
        jax.custom_vjp(lambda x: x - np.float32(1)),
        jax.nn.relu,
        functools.partial(_scanned, reverse=False),
        functools.partial(_scanned, reverse=True),
        lambda x: lax.cond(True, lambda y: y, lambda y: -y, x),
    ],
    ids=["jit", "remat", "custom_vjp", "custom_jvp", "scan", "scan_reversed", "cond"],
)
def test_programs_within(function):
    if isinstance(function, jax.custom_vjp):
        function.defvjp(lambda x: (x, None), lambda _, g: (g,))
    agrees(function, _X)


def test_a_file_takes_the_way_of_no_platform():
    both = lambda x: by_platform(x, cpu=lambda y: -y, default=lambda y: y + y)  # noqa: E731
    model = written(both, _X)
    assert [node.op_type for node in model.graph.node] == ["Add", "Identity"]


def test_branches_that_the_model_chooses_are_refused():
    with pytest.raises(UnsupportedError, match="which branch"):
        written(lambda x: lax.cond(x.sum() > 0, lambda y: y, lambda y: -y, x), _X)


def test_an_unknown_primitive_is_named_with_its_line_and_scope():
    def function(x):
        with jax.named_scope("here"):
            return lax.digamma(x)

    with pytest.raises(UnsupportedError, match=r"'digamma'.*test_control\.py:\d+, in here"):
        written(function, _X)


def test_a_rule_can_be_added(monkeypatch):
    monkeypatch.setattr("fp4jax.deploy.onnx.walker.RULES", dict(_rules()))

    @rule("digamma")
    def digamma(walker, equation, inputs):
        return [walker.graph.emit("Neg", inputs, np.float32, inputs[0].shape)]

    assert written(lax.digamma, _X).graph.node[0].op_type == "Neg"


def _rules():
    from fp4jax.deploy.onnx.walker import RULES

    return RULES
