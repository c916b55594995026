"""The three bilinear products of a window, as one primitive that is its own derivative.

With B (n, *image, c), A (n, *grid, o) and a kernel K (*taps, c / groups, o) they are

    gather           A = sum_t B[i] K[t]      a convolution
    scatter          B[i] += A[q] K[t]^T      a transposed convolution; the adjoint of gather
    kernel_gradient  K[t] = sum_q B[i]^T A[q] the kernel gradient of both

Each makes one of the three arrays from the other two, and is the gradient of the trilinear form
sum_t,q B[i] K[t] A[q] with respect to it. So the transpose of each is another of them, and every
derivative, forward or reverse, of any order, runs in the form that is fast on its platform:
``cpu.py`` where a program is compiled for CPUs, ``default.py`` elsewhere.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import ad, batching, mlir
from jax.sharding import NamedSharding, PartitionSpec

from fp4jax.core import sharding
from fp4jax.core.primitive import Primitive
from fp4jax.core.typing import Array, DTypeLike, Shaped
from fp4jax.ops.convolution import cpu, default
from fp4jax.ops.convolution.geometry import Window

# What makes each array, from which others, in the order in which they are passed.
_OPERANDS = {"grid": ("image", "kernel"), "image": ("grid", "kernel"), "kernel": ("image", "grid")}
_PRODUCT = {"grid": "gather", "image": "scatter", "kernel": "kernel_gradient"}
# Their indices but for positions and taps, and where each lies. Two arrays share one of them.
_AXES = {"image": {"n": 0, "c": -1}, "grid": {"n": 0, "o": -1}, "kernel": {"c": -2, "o": -1}}


def gather(
    image: Shaped[Array, "n *image c"],
    kernel: Shaped[Array, "*taps i o"],
    *,
    window: Window,
    precision: Any = None,
    preferred_element_type: DTypeLike | None = None,
) -> Shaped[Array, "n *grid o"]:
    """The convolution of the image.

    As of the two others: differentiable, forward and in reverse, any number of times; of operands
    of two dtypes the narrower one is widened; the result has ``preferred_element_type``, or else
    the first operand's dtype.

    Example:
        >>> window = Window(image=(4,), grid=(3,), taps=(2,), stride=(1,), dilation=(1,), low=(0,))
        >>> gather(jnp.arange(4.0).reshape(1, 4, 1), jnp.ones((2, 1, 1)), window=window).ravel()
        Array([1., 3., 5.], dtype=float32)
    """
    return _product("grid", image, kernel, window, precision, preferred_element_type)


def scatter(
    grid: Shaped[Array, "n *grid o"],
    kernel: Shaped[Array, "*taps i o"],
    *,
    window: Window,
    precision: Any = None,
    preferred_element_type: DTypeLike | None = None,
) -> Shaped[Array, "n *image c"]:
    """The transposed convolution of the grid: the adjoint of :func:`gather`.

    Example:
        >>> window = Window(image=(4,), grid=(3,), taps=(2,), stride=(1,), dilation=(1,), low=(0,))
        >>> scatter(jnp.ones((1, 3, 1)), jnp.ones((2, 1, 1)), window=window).ravel()
        Array([1., 2., 2., 1.], dtype=float32)
    """
    return _product("image", grid, kernel, window, precision, preferred_element_type)


def kernel_gradient(
    image: Shaped[Array, "n *image c"],
    grid: Shaped[Array, "n *grid o"],
    *,
    window: Window,
    precision: Any = None,
    preferred_element_type: DTypeLike | None = None,
) -> Shaped[Array, "*taps i o"]:
    """The gradient of ``sum(gather(image, kernel) * grid)`` with respect to the kernel.

    Example:
        >>> window = Window(image=(4,), grid=(3,), taps=(2,), stride=(1,), dilation=(1,), low=(0,))
        >>> image = jnp.arange(4.0).reshape(1, 4, 1)
        >>> kernel_gradient(image, jnp.ones((1, 3, 1)), window=window).ravel()
        Array([3., 6.], dtype=float32)
    """
    return _product("kernel", image, grid, window, precision, preferred_element_type)


_window_product = Primitive("window_product")


def _product(result: str, a: Array, b: Array, window: Window, precision, dtype) -> Array:
    a, b = sharding.varying_together(a, b)
    dtype = jnp.dtype(dtype or a.dtype)
    precision = tuple(precision) if isinstance(precision, list) else precision
    params = {"result": result, "window": window, "precision": precision, "dtype": dtype}
    return _window_product.bind(a, b, batch=0, **params)


def _compute(platform: Any, a: Array, b: Array, *, result: str, dtype, batch: int, **params):
    """The product in the form of ``cpu.py`` or ``default.py``."""
    product = partial(getattr(platform, _PRODUCT[result]), **params)
    if a.dtype == b.dtype:
        product = partial(product, dtype=dtype)
    else:
        # XLA's convolutions want one dtype: a float32 cotangent may meet a bfloat16 operand.
        wide = max(a.dtype, b.dtype, jnp.dtype(jnp.float32), key=lambda dtype: dtype.itemsize)
        a, b, product = a.astype(wide), b.astype(wide), partial(product, dtype=wide)
    for _ in range(batch):
        product = jax.vmap(product)
    return product(a, b).astype(dtype)


mlir.register_lowering(
    _window_product, mlir.lower_fun(partial(_compute, default), multiple_results=False)
)
mlir.register_lowering(
    _window_product, mlir.lower_fun(partial(_compute, cpu), multiple_results=False), platform="cpu"
)


@_window_product.def_impl
def _run(a: Array, b: Array, **params) -> Array:
    # A primitive is compiled even where JAX's functions are not.
    with jax.disable_jit(False):
        return _compiled(a, b, **params)


@partial(jax.jit, static_argnames=("result", "window", "precision", "dtype", "batch"))
def _compiled(a: Array, b: Array, **params) -> Array:
    return _window_product.bind(a, b, **params)


@_window_product.def_abstract_eval
def _type(a: Any, b: Any, *, result: str, window: Window, dtype, batch: int, precision) -> Any:
    sizes = {}
    for role, operand in zip(_OPERANDS[result], (a, b), strict=True):
        sizes |= {i: operand.shape[_axis(role, i, batch, operand.ndim)] for i in _AXES[role]}
    if result == "image":
        # A kernel has the channels of one group.
        sizes["c"] *= window.groups
    elif result == "kernel":
        sizes["c"] //= window.groups
    shape = {
        "grid": lambda: (sizes["n"], *window.grid, sizes["o"]),
        "image": lambda: (sizes["n"], *window.image, sizes["c"]),
        "kernel": lambda: (*window.taps, sizes["c"], sizes["o"]),
    }[result]()
    shape = (*a.shape[:batch], *shape)
    whole = NamedSharding(a.sharding.mesh, PartitionSpec(*[None] * len(shape)))
    return a.update(shape=shape, dtype=dtype, weak_type=False, sharding=whole)


def _transpose(
    wanted: int, cotangent: Array, *operands: Any, result: str, dtype, **params
) -> Array:
    """The gradient with respect to one operand, from the other and the result's cotangent."""
    roles = _OPERANDS[result]
    arrays = {result: cotangent, roles[1 - wanted]: operands[1 - wanted]}
    made = roles[wanted]
    a, b = (arrays[role] for role in _OPERANDS[made])
    return _window_product.bind(a, b, result=made, dtype=operands[wanted].aval.dtype, **params)


ad.defbilinear(_window_product, partial(_transpose, 0), partial(_transpose, 1))


def _batch(operands: Any, axes: Any, *, result: str, window: Window, batch: int, **params):
    """vmap: where one operand has the new axis, it joins the index that only this one has."""
    params |= {"result": result, "window": window}
    lanes = [None if d is None else x.shape[d] for x, d in zip(operands, axes, strict=True)]
    a, b = (x if d is None else jnp.moveaxis(x, d, 0) for x, d in zip(operands, axes, strict=True))
    if None in lanes:
        alone = 1 - lanes.index(None)
        role = _OPERANDS[result][alone]
        (index,) = _AXES[role].keys() & _AXES[result].keys()
        if index == "n" or window.groups == 1:
            joined = _join((a, b)[alone], _axis(role, index, batch, (a, b)[alone].ndim - 1))
            a, b = (a, joined) if alone else (joined, b)
            y = _window_product.bind(a, b, batch=batch, **params)
            axis = _axis(result, index, batch, y.ndim)
            return y.reshape(
                *y.shape[:axis], lanes[alone], y.shape[axis] // lanes[alone], *y.shape[axis + 1 :]
            ), axis
        rest = (a, b)[1 - alone]
        rest = jnp.broadcast_to(rest, (lanes[alone], *rest.shape))
        a, b = (rest, b) if alone else (a, rest)
    return _window_product.bind(a, b, batch=batch + 1, **params), 0


def _axis(role: str, index: str, batch: int, ndim: int) -> int:
    """Where an array of ``ndim`` axes, the first ``batch`` not the product's, has an index."""
    axis = _AXES[role][index]
    return batch if axis == 0 else ndim + axis


def _join(x: Array, axis: int) -> Array:
    """(lane, *shape) -> shape with the lanes joined to ``axis``, before what is there."""
    x = jnp.moveaxis(x, 0, axis)
    return x.reshape(*x.shape[:axis], x.shape[axis] * x.shape[axis + 1], *x.shape[axis + 2 :])


batching.primitive_batchers[_window_product] = _batch
