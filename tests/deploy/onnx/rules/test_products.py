"""Matrix products and convolutions against JAX, each alone."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fp4jax.deploy.onnx.walker import UnsupportedError
from tests.deploy.onnx.functions import agrees, written


def _normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("dims", "lhs", "rhs"),
    [
        ((((2,), (0,)), ((), ())), (2, 3, 4), (4, 5)),
        ((((1, 2), (1, 0)), ((), ())), (2, 3, 4), (4, 3, 5)),
        ((((1,), (2,)), ((0, 3), (1, 0))), (2, 3, 4, 5), (5, 2, 3, 6)),
        ((((), ()), ((0,), (0,))), (2, 3), (2, 4)),
    ],
)
def test_dot_general(dims, lhs, rhs):
    agrees(lambda a, b: lax.dot_general(a, b, dims), _normal(*lhs), _normal(*rhs), atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"window_strides": (1, 1), "padding": "SAME"},
        {"window_strides": (2, 1), "padding": ((1, 0), (2, 1))},
        {"window_strides": (1, 1), "padding": ((-1, 2), (0, -1))},
        {"window_strides": (1, 1), "padding": "SAME", "rhs_dilation": (2, 1)},
        {"window_strides": (1, 1), "padding": ((1, 2), (2, 2)), "lhs_dilation": (2, 3)},
        {"window_strides": (1, 1), "padding": ((3, 4), (0, 1)), "lhs_dilation": (2, 1)},
    ],
)
def test_convolutions_of_images(options):
    layout = ("NHWC", "HWIO", "NHWC")
    convolve = lambda x, w: lax.conv_general_dilated(x, w, **options, dimension_numbers=layout)  # noqa: E731
    agrees(convolve, _normal(2, 5, 6, 4), _normal(3, 2, 4, 3), atol=1e-5)


def test_convolutions_of_volumes_and_groups():
    layout = ("NDHWC", "DHWIO", "NDHWC")
    grouped = lambda x, w: lax.conv_general_dilated(  # noqa: E731
        x, w, (1, 2, 1), "SAME", dimension_numbers=layout, feature_group_count=2
    )
    agrees(grouped, _normal(1, 3, 4, 3, 4), _normal(3, 2, 1, 2, 6), atol=1e-5)


def test_gradients_of_kernels_are_refused():
    grouped = lambda x, w: lax.conv_general_dilated(  # noqa: E731
        x, w, (1,), "VALID", batch_group_count=2
    )
    with pytest.raises(UnsupportedError, match="groups of the batch"):
        written(grouped, _normal(2, 3, 4), _normal(4, 3, 2))


def test_a_known_kernel_is_written_as_it_is_multiplied():
    w = _normal(3, 3, 2, 4)
    layout = ("NHWC", "HWIO", "NHWC")
    convolve = functools.partial(
        lax.conv_general_dilated, window_strides=(1, 1), padding="SAME", dimension_numbers=layout
    )
    model = written(lambda x: convolve(x, jnp.asarray(w)), _normal(1, 4, 4, 2))
    kernel = next(t for t in model.graph.initializer if len(t.dims) == 4)
    assert list(kernel.dims) == [4, 2, 3, 3]
