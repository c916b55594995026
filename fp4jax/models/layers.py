"""Layers that Flax has in another form: exact GELU, patches as one product; checks of images."""

import functools
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import lax

from fp4jax.core.typing import Array, Float, Shaped
from fp4jax.models.initializers import Initializer
from fp4jax.models.norms import GELU
from fp4jax.ops.convolution.quantized import conv_general_dilated


class Downsample(nnx.Linear):
    """A convolution of kernel p and stride p, as one matrix product over patches.

    Parameters and result are those of a convolution whose windows do not overlap. The input's
    pixels must have become channels first, :func:`space_to_channels`; the kernel is
    (p**d * c, out). XLA's strided form has slow gradients on CPU. With p = 1 it is a pointwise
    convolution.

    Args:
        in_features, out_features: c and the output's channels.
        patch: p, in pixels.
        spatial_dims: d, 2 for images, 3 for volumes.
        options: as for ``nnx.Linear``.

    Example:
        >>> import jax.numpy as jnp
        >>> layer = Downsample(3, 8, patch=4, rngs=nnx.Rngs(0))
        >>> layer(space_to_channels(jnp.ones((2, 16, 16, 3)), 4)).shape
        (2, 4, 4, 8)
    """

    def __init__(
        self, in_features: int, out_features: int, *, patch: int, spatial_dims: int = 2, **options
    ):
        super().__init__(patch**spatial_dims * in_features, out_features, **options)
        self.patch = patch
        self.spatial_dims = spatial_dims


class Upsample(nnx.Conv):
    """A transposed convolution of kernel p and stride p, as one matrix product over pixels.

    Every pixel becomes a patch of its own: (b, h, w, c) -> (b, p h, p w, out). A pointwise
    convolution to p**d * out channels, kernel (1, 1, c, p * p * out), whose channels become
    pixels; a bias per output channel. (As a convolution, because fp4jax's has fast gradients.)

    Args:
        in_features, out_features: channels.
        patch: p, in pixels.
        spatial_dims: d, 2 for images, 3 for volumes.
        bias_init: of the bias; None for a layer without.
        options: as for ``nnx.Conv``.

    Example:
        >>> import jax.numpy as jnp
        >>> zeros = nnx.initializers.zeros
        >>> layer = Upsample(8, 4, patch=2, bias_init=zeros, rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((2, 4, 4, 8))).shape
        (2, 8, 8, 4)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        patch: int,
        spatial_dims: int = 2,
        bias_init: Initializer | None,
        rngs: nnx.Rngs,
        **options,
    ):
        channels, ones = patch**spatial_dims * out_features, (1,) * spatial_dims
        super().__init__(in_features, channels, ones, use_bias=False, rngs=rngs, **options)
        self.patch = patch
        if bias_init is not None:
            self.bias = nnx.Param(bias_init(rngs.params(), (out_features,), jnp.float32))

    def __call__(self, inputs: Float[Array, "b *space c"]) -> Float[Array, "b *pixels d"]:
        bias = None if self.bias is None else self.bias[...]
        x, kernel, offset = self.promote_dtype((inputs, self.kernel[...], bias), dtype=self.dtype)
        pixels = channels_to_space(convolved(self, x, kernel, "VALID"), self.patch)
        return pixels if offset is None else pixels + offset.reshape((1,) * (x.ndim - 1) + (-1,))


class Conv(nnx.Conv):
    """``nnx.Conv`` that is fast on CPU before a recipe is applied, too; see :func:`convolved`.

    For one batch dimension, zero padding, and without mask, dilation or groups.

    Example:
        >>> import jax.numpy as jnp
        >>> layer = Conv(3, 8, (3, 3, 3), padding=1, rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((1, 4, 4, 4, 3))).shape
        (1, 4, 4, 4, 8)
    """

    def __call__(self, inputs: Float[Array, "b *space c"]) -> Float[Array, "b *out d"]:
        bias = None if self.bias is None else self.bias[...]
        x, kernel, offset = self.promote_dtype((inputs, self.kernel[...], bias), dtype=self.dtype)
        y = convolved(self, x, kernel, self.padding)
        return y if offset is None else y + offset.reshape((1,) * (y.ndim - 1) + (-1,))


def convolved(layer: nnx.Conv, x: Array, kernel: Any, padding: Any) -> Array:
    """The convolution in a layer's slot, channels last.

    Where the slot holds lax's own, it is fp4jax's without quantization: the same function, with
    XLA:CPU's faster products, and bit for bit what the recipe "baseline" computes. The kernel is an
    array, or what another operation in the slot takes: a packed layer's weight.
    """
    operation: Any = layer.conv_general_dilated
    if operation is lax.conv_general_dilated:
        operation = functools.partial(conv_general_dilated, recipe="baseline")
    d = x.ndim - 2
    strides = layer.strides if isinstance(layer.strides, tuple) else (layer.strides or 1,) * d
    data, taps = ("NHWC", "HWIO") if d == 2 else ("NDHWC", "DHWIO")
    padding = ((padding, padding),) * d if isinstance(padding, int) else padding
    return operation(
        x, kernel, strides, padding, dimension_numbers=(data, taps, data), precision=layer.precision
    )


def space_to_channels(x: Float[Array, "b *space c"], p: int) -> Float[Array, "b *patches n"]:
    """(b, h, w, c) -> (b, h / p, w / p, p * p * c): the pixels of each p x p patch, row by row.

    Any number of dimensions between the first and the last.
    """
    b, *space, c = x.shape
    d = len(space)
    split = x.reshape(b, *(m for n in space for m in (n // p, p)), c)
    patches = split.transpose(0, *range(1, 2 * d, 2), *range(2, 2 * d + 1, 2), 2 * d + 1)
    return patches.reshape(b, *(n // p for n in space), p**d * c)


def channels_to_space(x: Float[Array, "b *patches n"], p: int) -> Float[Array, "b *space c"]:
    """The inverse of :func:`space_to_channels`."""
    b, *patches, n = x.shape
    d = len(patches)
    split = x.reshape(b, *patches, *(p,) * d, n // p**d)
    pixels = split.transpose(0, *(a for i in range(d) for a in (1 + i, 1 + d + i)), 2 * d + 1)
    return pixels.reshape(b, *(m * p for m in patches), n // p**d)


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Exact GELU, x Phi(x) with Phi(x) = (1 + erf(x / sqrt 2)) / 2, in float32.

    Source: Hendrycks and Gimpel, arXiv 1606.08415.

    Example:
        >>> import jax.numpy as jnp
        >>> [round(float(v), 4) for v in gelu(jnp.array([-1.0, 0.0, 1.0]))]
        [-0.1587, 0.0, 0.8413]
    """
    return GELU.function(x.astype(jnp.float32)).astype(x.dtype)


def layer_norm(features: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm over channels in float32 with torch's eps, 1e-5."""
    return nnx.LayerNorm(
        features, epsilon=1e-5, dtype=jnp.float32, use_fast_variance=False, rngs=rngs
    )


def checked_images(
    x: Shaped[Array, "..."],
    in_channels: int,
    size: tuple[int, int] | None = None,
    multiple: int | tuple[int, ...] = 1,
    spatial_dims: int = 2,
) -> None:
    """ValueError unless x is float and channels last, of that many channels and admissible size."""
    what, axes = _AXES[spatial_dims]
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{what} are {x.dtype}; pass normalised floating-point numbers.")
    if x.ndim != spatial_dims + 2 or x.shape[-1] != in_channels:
        raise ValueError(
            f"{what} have shape {x.shape}; expected (batch, {', '.join(axes)}, {in_channels}), "
            f"channels last. Transpose {what} with channels first, or create the model with other "
            "in_channels or spatial_dims."
        )
    if size is not None and x.shape[1:3] != size:
        raise ValueError(
            f"images are {x.shape[1]} x {x.shape[2]}; this model was created for {size[0]} x "
            f"{size[1]}, the size of its position table. Create it with another image_size."
        )
    checked_size(x.shape[1:-1], multiple, what)


def checked_size(
    size: int | tuple[int, ...], multiple: int | tuple[int, ...], what: str = "images"
) -> None:
    """ValueError unless a size is positive and a multiple along each axis."""
    sizes = size if isinstance(size, tuple) else (size,)
    multiples = multiple if isinstance(multiple, tuple) else (multiple,) * len(sizes)
    if len(sizes) == 1:
        sizes *= len(multiples)
    if any(n <= 0 or n % m for n, m in zip(sizes, multiples, strict=True)):
        needed = multiples if len(set(multiples)) > 1 else multiples[:1]
        raise ValueError(
            f"{what} are {' x '.join(map(str, sizes))}; their sides must be multiples of "
            f"{' x '.join(map(str, needed))}. Pad or resize them, or take a smaller scale."
        )


# What a message calls the input of a network, and its axes.
_AXES: dict[int, tuple[str, tuple[str, ...]]] = {
    2: ("images", ("height", "width")),
    3: ("volumes", ("depth", "height", "width")),
}


def checked_dims(spatial_dims: int) -> int:
    """ValueError unless a network has two or three spatial dimensions."""
    if spatial_dims not in _AXES:
        raise ValueError(f"spatial_dims is {spatial_dims}; give 2 for images, 3 for volumes.")
    return spatial_dims
