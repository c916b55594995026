"""Layers that Flax lacks or has in another form: torch's BatchNorm, exact GELU, patches as rows.

Norms compute in float32 and return the dtype they are given for their result.
"""

import math

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from fp4jax.typing import Array, DTypeLike, Float


class BatchNorm(nnx.BatchNorm):
    """``nnx.BatchNorm`` with torch's running statistics.

    Training: y = (x - mean) / sqrt(var + eps) * scale + bias with the batch's mean and biased
    variance, and running = 0.9 running + 0.1 batch, where the batch's variance is the *unbiased*
    one, n / (n - 1) var. Flax keeps the biased one. Evaluation uses the running statistics.

    Args:
        features: channels, the last axis.
        dtype: of the result; statistics are float32.
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

    def __call__(self, x: Float[Array, "*batch c"], use_running_average: bool | None = None):
        running = self.use_running_average if use_running_average is None else use_running_average
        dtype = x.dtype if self.dtype is None else self.dtype
        x = x.astype(jnp.float32)
        channel = (1,) * (x.ndim - 1) + (-1,)
        mean, var = self.mean[...], self.var[...]
        if not running:
            mean, var = self._batch_statistics(x, channel)
        scale, bias = self._value("scale"), self._value("bias")
        factor = lax.rsqrt(var + np.float32(self.epsilon)) * scale
        y = (x - mean.reshape(channel)) * factor.reshape(channel) + bias.reshape(channel)
        return y.astype(dtype)

    def _value(self, name: str) -> Array:
        return getattr(self, name)[...].astype(jnp.float32)

    def _batch_statistics(self, x: Array, channel: tuple[int, ...]) -> tuple[Array, Array]:
        """Mean and biased variance of the batch; updates the running ones."""
        count = math.prod(x.shape[:-1])
        if count < 2:
            raise ValueError(
                f"BatchNorm in training mode got shape {x.shape}, {count} value per channel, "
                "which has no variance; use a larger batch, larger images, or model.eval()."
            )
        axes = tuple(range(x.ndim - 1))
        mean = x.mean(axes)
        var = lax.square(x - mean.reshape(channel)).mean(axes)
        unbiased = var * np.float32(count / (count - 1))
        for running, batch in ((self.mean, mean), (self.var, unbiased)):
            old, new = np.float32(self.momentum), np.float32(1 - self.momentum)
            running.set_value(lax.stop_gradient(running[...] * old + batch * new))
        return mean, var


class PatchConv(nnx.Conv):
    """A convolution of kernel p and stride p, written as one product over patches.

    The same parameters and result as ``nnx.Conv(..., kernel_size=(p, p), strides=p)``: the pixels
    of a patch become channels and the kernel has one tap, which is a matrix product forward and
    backward (the kernel gradient of the strided form is slow on CPU).

    Args:
        in_features, out_features: channels.
        patch: p, in pixels; must divide the image's height and width.
        ...: as for ``nnx.Conv``.

    Example:
        >>> import jax.numpy as jnp
        >>> PatchConv(3, 8, patch=4, rngs=nnx.Rngs(0))(jnp.ones((2, 16, 16, 3))).shape
        (2, 4, 4, 8)
    """

    def __init__(self, in_features: int, out_features: int, *, patch: int, **options):
        super().__init__(
            in_features, out_features, (patch, patch), patch, padding="VALID", **options
        )

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
        patch = self.kernel_size[0]
        kernel = self.kernel[...].reshape(1, 1, -1, self.out_features)
        bias = None if self.bias is None else self.bias[...]
        x, kernel, bias = self.promote_dtype((x, kernel, bias), dtype=self.dtype)
        y = self.conv_general_dilated(
            space_to_channels(x, patch),
            kernel,
            (1, 1),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=self.precision,
            preferred_element_type=self.preferred_element_type,
        )
        return y if bias is None else y + bias.reshape(1, 1, 1, -1)


def space_to_channels(x: Float[Array, "b h w c"], p: int) -> Float[Array, "b i j n"]:
    """(b, h, w, c) -> (b, h / p, w / p, p * p * c): the pixels of each p x p patch, row by row."""
    b, h, w, c = x.shape
    patches = x.reshape(b, h // p, p, w // p, p, c).transpose(0, 1, 3, 2, 4, 5)
    return patches.reshape(b, h // p, w // p, p * p * c)


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Exact GELU, x Phi(x) with Phi(x) = (1 + erf(x / sqrt 2)) / 2, in float32.

    Source: Hendrycks and Gimpel, arXiv 1606.08415.

    Example:
        >>> import jax.numpy as jnp
        >>> [round(float(v), 4) for v in gelu(jnp.array([-1.0, 0.0, 1.0]))]
        [-0.1587, 0.0, 0.8413]
    """
    z = x.astype(jnp.float32)
    half = np.float32(0.5)
    return (z * (half + half * lax.erf(z * np.float32(math.sqrt(0.5))))).astype(x.dtype)


def layer_norm(features: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm over channels in float32 with torch's eps, 1e-5."""
    return nnx.LayerNorm(
        features, epsilon=1e-5, dtype=jnp.float32, use_fast_variance=False, rngs=rngs
    )


def group_norm(features: int, groups: int, rngs: nnx.Rngs) -> nnx.GroupNorm:
    """GroupNorm in float32 with torch's eps, 1e-5."""
    return nnx.GroupNorm(
        features,
        groups,
        epsilon=1e-5,
        dtype=jnp.float32,
        use_fast_variance=False,
        rngs=rngs,
    )


def checked_images(
    x: Array, in_channels: int, size: tuple[int, int] | None = None, multiple: int = 1
) -> None:
    """ValueError unless x is float NHWC of that many channels and of an admissible size."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"images are {x.dtype}; pass normalised floating-point numbers.")
    if x.ndim != 4 or x.shape[-1] != in_channels:
        raise ValueError(
            f"images have shape {x.shape}; expected (batch, height, width, {in_channels}), "
            "channels last. Transpose NCHW images, or create the model with other in_channels."
        )
    if size is not None and x.shape[1:3] != size:
        raise ValueError(
            f"images are {x.shape[1]} x {x.shape[2]}; this model was created for {size[0]} x "
            f"{size[1]}, the size of its position table. Create it with another image_size."
        )
    if any(n % multiple or n == 0 for n in x.shape[1:3]):
        raise ValueError(
            f"images are {x.shape[1]} x {x.shape[2]}; height and width must be multiples of "
            f"{multiple}. Pad or resize them, or take a smaller scale."
        )
