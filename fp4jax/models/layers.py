"""Layers that Flax has in another form: exact GELU, patches as one product; checks of images."""

import jax.numpy as jnp
from flax import nnx

from fp4jax.models.initializers import Initializer
from fp4jax.models.norms import GELU
from fp4jax.typing import Array, Float, Shaped


class Downsample(nnx.Linear):
    """A convolution of kernel p and stride p, as one matrix product over patches.

    Parameters and result are those of a convolution whose windows do not overlap. The input's
    pixels must have become channels first, :func:`space_to_channels`; the kernel is
    (p * p * c, out). XLA's strided form has slow gradients on CPU. With p = 1 it is a pointwise
    convolution.

    Args:
        in_features, out_features: c and the output's channels.
        patch: p, in pixels.
        options: as for ``nnx.Linear``.

    Example:
        >>> import jax.numpy as jnp
        >>> layer = Downsample(3, 8, patch=4, rngs=nnx.Rngs(0))
        >>> layer(space_to_channels(jnp.ones((2, 16, 16, 3)), 4)).shape
        (2, 4, 4, 8)
    """

    def __init__(self, in_features: int, out_features: int, *, patch: int, **options):
        super().__init__(patch**2 * in_features, out_features, **options)
        self.patch = patch


class Upsample(nnx.Conv):
    """A transposed convolution of kernel p and stride p, as one matrix product over pixels.

    Every pixel becomes a patch of its own: (b, h, w, c) -> (b, p h, p w, out). A pointwise
    convolution to p * p * out channels, kernel (1, 1, c, p * p * out), whose channels become
    pixels; a bias per output channel. (As a convolution, because fp4jax's has fast gradients.)

    Args:
        in_features, out_features: channels.
        patch: p, in pixels.
        bias_init: of the bias.
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
        bias_init: Initializer,
        rngs: nnx.Rngs,
        **options,
    ):
        channels = patch**2 * out_features
        super().__init__(in_features, channels, (1, 1), use_bias=False, rngs=rngs, **options)
        self.patch = patch
        self.bias = nnx.Param(bias_init(rngs.params(), (out_features,), jnp.float32))

    def __call__(self, inputs: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
        bias = self.bias
        assert bias is not None
        x, kernel, offset = self.promote_dtype(
            (inputs, self.kernel[...], bias[...]), dtype=self.dtype
        )
        y = self.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return channels_to_space(y, self.patch) + offset.reshape(1, 1, 1, -1)


def space_to_channels(x: Float[Array, "b h w c"], p: int) -> Float[Array, "b i j n"]:
    """(b, h, w, c) -> (b, h / p, w / p, p * p * c): the pixels of each p x p patch, row by row."""
    b, h, w, c = x.shape
    patches = x.reshape(b, h // p, p, w // p, p, c).swapaxes(2, 3)
    return patches.reshape(b, h // p, w // p, p * p * c)


def channels_to_space(x: Float[Array, "b i j n"], p: int) -> Float[Array, "b h w c"]:
    """The inverse of :func:`space_to_channels`."""
    b, i, j, n = x.shape
    pixels = x.reshape(b, i, j, p, p, n // p**2).swapaxes(2, 3)
    return pixels.reshape(b, i * p, j * p, n // p**2)


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
    multiple: int = 1,
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
