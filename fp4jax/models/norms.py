"""Normalization over positions, its affine map and the activation behind it, as one operation.

Batch, group and instance norm differ only in which values share a mean. XLA's gradient of the
three steps makes a dozen passes over the image on CPU; that of the tangent written out here makes
four, and keeps only x for the backward pass (five times faster on 256 x 256 pixels of 8 channels).
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.errors import TraceContextError
from jax import lax

from fp4jax.core.typing import Array, DTypeLike, Float

_HALF = np.float32(0.5)


class Activation(NamedTuple):
    """An elementwise function and its derivative, of float32.

    With a parameter, all three are functions of (z, parameter); the third is the derivative with
    respect to the parameter, and None says that there is none.
    """

    function: Callable[..., Array]
    derivative: Callable[..., Array]
    slope_derivative: Callable[[Array, Array], Array] | None = None

    def __call__(self, z: Array, slope: Array | None) -> Array:
        return self.function(*self.arguments(z, slope))

    def arguments(self, z: Array, slope: Array | None) -> tuple[Array, ...]:
        """What the functions take: z, or z and the parameter."""
        if self.slope_derivative is None:
            return (z,)
        if slope is None:
            raise ValueError("this activation has a parameter; pass slope.")
        return (z, slope)


def _phi(z: Array) -> Array:
    """Distribution function of N(0, 1)."""
    return _HALF + _HALF * lax.erf(z * np.float32(math.sqrt(0.5)))


def _gelu_derivative(z: Array) -> Array:
    return _phi(z) + z * jnp.exp(-_HALF * z * z) * np.float32(1 / math.sqrt(2 * math.pi))


@functools.cache
def leaky_relu(slope: float) -> Activation:
    """max(z, slope * z) for a slope below 1; the derivative at 0 is the slope, as in torch."""
    one, below = np.float32(1), np.float32(slope)
    step = lambda z: jnp.where(z > 0, one, below)  # noqa: E731
    return Activation(lambda z: z * step(z), step)


IDENTITY = Activation(lambda z: z, jnp.ones_like)
RELU = leaky_relu(0.0)
#: max(z, 0) + slope * min(z, 0) with a slope that is learned.
PRELU = Activation(
    lambda z, a: jnp.where(z > 0, z, z * a),
    lambda z, a: jnp.where(z > 0, np.float32(1), a),
    lambda z, a: jnp.minimum(z, np.float32(0)),
)
#: Exact: z Phi(z).
GELU = Activation(lambda z: z * _phi(z), _gelu_derivative)


def norm_act(
    x: Float[Array, "*sets positions c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    groups: int,
    activation: Activation = IDENTITY,
    epsilon: float = 1e-5,
    slope: Float[Array, " 1"] | None = None,
) -> tuple[Array, Array, Array]:
    """y = f((x - mean) / sqrt(var + eps) * scale + bias), with mean and var per set and group.

    Args:
        x: values; each set and each group of adjacent channels has statistics of its own. Instance
            norm: sets = images, groups = channels. Batch norm: one set.
        scale, bias: per channel.
        groups: how many groups of channels; must divide c.
        activation: f.
        epsilon: eps.
        slope: the parameter of ``PRELU``.

    Returns:
        y in x's dtype, mean and biased variance (sets, groups) in float32. Gradients flow through
        y only; computation is in float32.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([[[1.0], [3.0]]])
        >>> y, mean, var = norm_act(x, jnp.ones(1), jnp.zeros(1), groups=1)
        >>> [round(float(v), 3) for v in y.ravel()], float(mean[0, 0]), float(var[0, 0])
        ([-1.0, 1.0], 2.0, 1.0)
    """
    *sets, positions, c = x.shape
    # XLA:CPU turns a sum of products over the second axis of one set into a dot that is 40 times
    # slower: no axis for one.
    one = (positions, c)
    merged = x.reshape(one if math.prod(sets) == 1 else (-1, *one))
    result: Any = _norm_act(merged, scale, bias, slope, groups, activation, float(epsilon))
    y, mean, var = result
    return y.reshape(x.shape), mean.reshape(*sets, groups), var.reshape(*sets, groups)


@functools.partial(jax.custom_jvp, nondiff_argnums=(4, 5, 6))
def _norm_act(x, scale, bias, slope, groups, activation, epsilon):
    y, mean, var, _ = _forward(x, scale, bias, slope, groups, activation, epsilon)
    return y, mean, var


def _forward(x, scale, bias, slope, groups, activation, epsilon):
    z, c = x.astype(jnp.float32), x.shape[-1]
    mean = _group_mean(z.mean(-2), groups)
    var = _group_mean(lax.square(z - _spread(mean, c)).mean(-2), groups)
    # Of a mean that XLA takes for another one: it would write z - mean to memory to use it twice.
    centred = z - _spread(lax.optimization_barrier(mean), c)
    factor = _spread(lax.rsqrt(var + np.float32(epsilon)), c)
    normal = centred * (factor * _channels(scale, x)) + _channels(bias, x)
    y = activation(normal, _scalar(slope, x))
    return y.astype(x.dtype), mean, var, factor


@_norm_act.defjvp
def _jvp(groups, activation, epsilon, primals, tangents):
    x, scale, bias, slope = primals
    y, mean, var, factor = _forward(x, scale, bias, slope, groups, activation, epsilon)
    # Computed again from x for the gradient, so that nothing else of x's size is kept.
    tangent = jax.checkpoint(_tangent, static_argnums=(0, 1), prevent_cse=False)
    saved = (x, mean, factor, scale, bias, slope)
    dy = tangent(groups, activation, saved, tangents)
    return (y, mean, var), (dy, jnp.zeros_like(mean), jnp.zeros_like(var))


def _tangent(groups, activation, saved, tangents):
    """dy, linear in (dx, d_scale, d_bias, d_slope).

    With n = (x - mean) factor the normalized values, z = n scale + bias and y = f(z),

        dz = factor scale (dx - <dx> - n <n dx>) + n d_scale + d_bias,    dy = f'(z) dz

    and < > the mean of a set and group. It is written so that its transpose, the gradient, is few
    passes: what is constant over positions is first put together, as a factor of x and a summand.
    """
    x, mean, factor, scale, bias, slope = saved
    dx, d_scale, d_bias, d_slope = tangents
    c, dtype = x.shape[-1], x.dtype
    x, dx, mean = x.astype(jnp.float32), dx.astype(jnp.float32), _spread(mean, c)
    normal = (x - mean) * factor
    scale32 = _channels(scale, x)

    def average(a: Array) -> Array:
        return _spread(_group_mean(a.mean(-2), groups), c)

    gain = factor * scale32
    per_normal = _channels(d_scale, x) - gain * average(normal * dx)
    constant = _channels(d_bias, x) - gain * average(dx)
    per_x = factor * per_normal
    dz = gain * dx + x * per_x + (constant - mean * per_x)
    # In the gradient once to memory: three passes read it, and each would evaluate f' again.
    dz = lax.optimization_barrier(dz)
    arguments = activation.arguments(normal * scale32 + _channels(bias, x), _scalar(slope, x))
    dy = activation.derivative(*arguments) * dz
    if activation.slope_derivative is not None:
        dy = dy + activation.slope_derivative(*arguments) * _scalar(d_slope, x)
    return dy.astype(dtype)


def _group_mean(per_channel: Array, groups: int) -> Array:
    """(*sets, c) -> (*sets, groups)."""
    return per_channel.reshape(*per_channel.shape[:-1], groups, -1).mean(-1)


def _spread(per_group: Array, c: int) -> Array:
    """(*sets, groups) -> (*sets, 1, c)."""
    return jnp.repeat(per_group, c // per_group.shape[-1], axis=-1)[..., None, :]


def _channels(a: Array, like: Array) -> Array:
    return a.astype(jnp.float32).reshape(*[1] * (like.ndim - 1), -1)


def _scalar(slope: Array | None, like: Array) -> Array | None:
    return None if slope is None else slope.astype(jnp.float32).reshape([1] * like.ndim)


class PReLU(nnx.Module):
    """The learned slope of ``PRELU``, one for all channels; torch's name for it is ``weight``.

    Args:
        slope: at the start.
    """

    def __init__(self, slope: float = 0.25):
        self.slope = nnx.Param(jnp.full((1,), slope, jnp.float32))


class InstanceNorm(nnx.InstanceNorm):
    """``nnx.InstanceNorm`` with torch's eps, an activation behind it, and no running statistics.

    Args:
        features: channels, the last axis.
        affine: whether there is a scale and a bias per channel.
        dtype: of the result; x's if None.
        rngs: as for ``nnx.InstanceNorm``.

    Raises:
        ValueError: when called with one value per channel, as torch does.

    Example:
        >>> import jax.numpy as jnp
        >>> norm = InstanceNorm(1, affine=False, rngs=nnx.Rngs(0))
        >>> [round(float(v), 3) for v in norm(jnp.array([[[1.0], [3.0]]])).ravel()]
        [-1.0, 1.0]
    """

    def __init__(
        self, features: int, *, affine: bool, dtype: DTypeLike | None = None, rngs: nnx.Rngs
    ):
        super().__init__(
            features, epsilon=1e-5, use_scale=affine, use_bias=affine, dtype=dtype, rngs=rngs
        )

    def __call__(
        self,
        x: Float[Array, "b *space c"],
        activation: Activation = IDENTITY,
        slope: Float[Array, " 1"] | None = None,
    ) -> Float[Array, "b *space c"]:
        b, *space, c = x.shape
        if math.prod(space) < 2:
            raise ValueError(
                f"InstanceNorm got shape {x.shape}, {math.prod(space)} value per channel and "
                "image, which has no variance; use larger images, or downsample less."
            )
        # Constants, which XLA removes.
        scale = jnp.ones((c,)) if self.scale is None else self.scale[...]
        bias = jnp.zeros((c,)) if self.bias is None else self.bias[...]
        flat = x.reshape(b, -1, c)
        y, _, _ = norm_act(flat, scale, bias, c, activation, self.epsilon, slope)
        return y.reshape(x.shape).astype(self.dtype or x.dtype)


class GroupNorm(nnx.GroupNorm):
    """``nnx.GroupNorm`` with torch's eps and an activation behind it.

    Args:
        features: channels, the last axis.
        groups: divides the channels.
        dtype: of the result; x's if None.
        rngs: as for ``nnx.GroupNorm``.

    Example:
        >>> import jax.numpy as jnp
        >>> GroupNorm(8, 4, rngs=nnx.Rngs(0))(jnp.ones((2, 4, 4, 8)), GELU).shape
        (2, 4, 4, 8)
    """

    def __init__(
        self, features: int, groups: int, *, dtype: DTypeLike | None = None, rngs: nnx.Rngs
    ):
        super().__init__(features, groups, epsilon=1e-5, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b *space c"], activation: Activation = IDENTITY
    ) -> Float[Array, "b *space c"]:
        flat = x.reshape(x.shape[0], -1, x.shape[-1])
        scale, bias = self.scale, self.bias
        assert scale is not None
        assert bias is not None
        y, _, _ = norm_act(flat, scale[...], bias[...], self.num_groups, activation, self.epsilon)
        return y.reshape(x.shape).astype(self.dtype or x.dtype)


class BatchNorm(nnx.BatchNorm):
    """``nnx.BatchNorm`` with torch's running statistics and an activation behind it.

    Training: normalizes by the batch's mean and biased variance, and running = 0.9 running + 0.1
    batch, where the batch's variance is the *unbiased* one, n / (n - 1) var. Flax keeps the biased
    one. Evaluation uses the running statistics.

    Args:
        features: channels, the last axis.
        dtype: of the result, x's if None; statistics are float32.
        rngs: as for ``nnx.BatchNorm``.

    Raises:
        ValueError: when called in training mode with one value per channel.

    Example:
        >>> import jax.numpy as jnp
        >>> norm = BatchNorm(1, rngs=nnx.Rngs(0))
        >>> y = norm(jnp.array([[1.0], [3.0]]))
        >>> [round(float(a[0]), 4) for a in (norm.mean, norm.var)]
        [0.2, 1.1]
    """

    def __init__(self, features: int, *, dtype: DTypeLike | None = None, rngs: nnx.Rngs):
        super().__init__(features, momentum=0.9, epsilon=1e-5, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "*batch c"],
        activation: Activation = IDENTITY,
        slope: Float[Array, " 1"] | None = None,
        *,
        use_running_average: bool | None = None,
    ) -> Float[Array, "*batch c"]:
        running = self.use_running_average if use_running_average is None else use_running_average
        dtype = self.dtype or x.dtype
        params = (self.scale, self.bias)
        scale, bias = (p[...] for p in params if p is not None)
        flat = x.reshape(1, -1, x.shape[-1])
        if not running:
            count = flat.shape[1]
            if count < 2:
                raise ValueError(
                    f"BatchNorm in training mode got shape {x.shape}, {count} value per channel, "
                    "which has no variance; use a larger batch, larger images, or model.eval()."
                )
            y, mean, var = norm_act(flat, scale, bias, x.shape[-1], activation, self.epsilon, slope)
            unbiased = var[0] * np.float32(count / (count - 1))
            self._update("mean", mean[0])
            self._update("var", unbiased)
        else:
            factor = lax.rsqrt(self.var[...] + np.float32(self.epsilon)) * scale
            centred = flat.astype(jnp.float32) - _channels(self.mean[...], flat)
            gained = centred * _channels(factor, flat) + _channels(bias, flat)
            y = activation(gained, _scalar(slope, flat))
        return y.reshape(x.shape).astype(dtype)

    def _update(self, name: str, batch: Array) -> None:
        running = getattr(self, name)
        old, new = np.float32(self.momentum), np.float32(1 - self.momentum)
        value = lax.stop_gradient(running[...] * old + batch * new)
        try:
            running.set_value(value)
        except TraceContextError:
            # nnx.merge(graph, state) inside of jax.jvp or jax.grad makes a model that shares the
            # variables of a state from outside, which must stay as it is: the model gets its own.
            # Flax refuses that for a model that is from outside itself.
            setattr(self, name, running.copy(value))
