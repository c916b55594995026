"""Rules that move numbers, reduce and index them, against JAX, each alone."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fp4jax.deploy.onnx.walker import UnsupportedError
from tests.deploy.onnx.functions import agrees, written

_X = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)

SHAPES = {
    "reshape": lambda x: x.reshape(4, 6),
    "transpose": lambda x: x.transpose(2, 0, 1),
    "broadcast": lambda x: jnp.broadcast_to(x[:, None], (2, 5, 3, 4)),
    "squeeze": lambda x: lax.squeeze(x[:, :1], (1,)),
    "concatenate": lambda x: lax.concatenate([x, x[:, :0], x[:, ::2]], 1),
    "slice": lambda x: lax.slice(x, (0, 1, 0), (2, 3, 4), (1, 1, 2)),
    "rev": lambda x: lax.rev(x, (0, 2)),
    "roll": lambda x: jnp.roll(x, (1, -2), (1, 2)),
    "pad": lambda x: lax.pad(x, np.float32(7), ((0, 0, 0), (1, 2, 0), (-1, 1, 0))),
    "edge": lambda x: jnp.pad(x, ((0, 0), (0, 1), (0, 0)), mode="edge"),
    "dynamic_slice": lambda x: lax.dynamic_slice(x, (0, 1, 9), (2, 2, 3)),
    "gather": lambda x: x[:, np.array([2, 0])],
    "stack": lambda x: jnp.stack([x, x], 2),
    "split": lambda x: jnp.split(x, [1], 1),
    "tile": lambda x: jnp.tile(x, (1, 2, 3)),
    "sum": lambda x: x.sum((0, 2)),
    "max": lambda x: x.max(1),
    "min": lambda x: x.min((1, 2)),
    "prod": lambda x: x.prod(2),
    "all": lambda x: (x > -1).all(1),
    "any": lambda x: (x > 1).any(1),
    "argmax": lambda x: x.argmax(1),
    "argmin": lambda x: x.argmin(2),
    "cumsum": lambda x: lax.cumsum(x, 1),
    "mean_of_broadcast": lambda x: jnp.broadcast_to(x[:, :1], x.shape).sum(1),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name):
    agrees(SHAPES[name], _X)


def test_padding_between_elements_is_refused():
    with pytest.raises(UnsupportedError, match=r"pad: it puts padding between.*test_shapes.py"):
        written(lambda x: lax.pad(x, np.float32(0), ((0, 0, 1), (0, 0, 0), (0, 0, 0))), _X)


def test_computed_indices_are_refused():
    with pytest.raises(UnsupportedError, match="computed by the model"):
        written(lambda x: lax.dynamic_slice(x, (x.argmax(), 0, 0), (1, 1, 1)), _X)
