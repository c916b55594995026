"""Augmentation on the device, inside the jitted train step; uint8 in, uint8 out.

In order: horizontal flip, vertical flip (p = 1/2 each); brightness and contrast (p = 0.3); shift,
scale and rotation (p = 0.3). The semantics, down to truncated grey levels, are those of the
reference's albumentations 2 pipeline. Every image's draw depends on (seed, epoch, index) only, not
on the batch it is in, its place there or what was drawn before.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fp4jax.core.typing import Array, DTypeLike, Float, Integer, Shaped, UInt8

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_SD = (0.229, 0.224, 0.225)

_FLIP = 0.5
_ADJUST = 0.3
_WARP = 0.3
_LIMIT = 0.2  # of contrast and of brightness
_SHIFT = 0.1  # of the image's size
_SCALE = 0.1
_DEGREES = 15.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is done to one image (or, with a leading axis, to each of a batch).

    Attributes:
        flip_horizontal, flip_vertical: bool.
        contrast: factor alpha; 1 leaves the image as it is.
        brightness: grey levels beta that are added; 0 leaves the image as it is.
        warp: bool, whether the remaining fields apply.
        shift: (2,) fraction of width and height, to the right and down; whole pixels are used.
        scale: (2,) factors of x and y.
        angle: degrees, counter-clockwise as seen.
    """

    flip_horizontal: Array
    flip_vertical: Array
    contrast: Array
    brightness: Array
    warp: Array
    shift: Array
    scale: Array
    angle: Array


def keys(
    seed: int | Array, epoch: int | Array, indices: Integer[Array, " b"]
) -> Shaped[Array, " b"]:
    """One key per image: ``fold_in(fold_in(key(seed), epoch), index)``.

    Args:
        seed: of the run.
        epoch: number of the pass over the data; may be traced.
        indices: of the images in their cohort.

    Example:
        >>> import jax.numpy as jnp
        >>> first = keys(0, 3, jnp.array([7, 8]))
        >>> bool(first[1] == keys(0, 3, jnp.array([8]))[0])
        True
    """
    of_epoch = jax.random.fold_in(jax.random.key(seed), epoch)
    return jax.vmap(lambda index: jax.random.fold_in(of_epoch, index))(indices)


def draw(key: Array) -> Augmentation:
    """Random parameters for one image.

    Contrast U(0.8, 1.2) and brightness 255 U(-0.2, 0.2) with probability 0.3, else 1 and 0; shift
    U(-0.1, 0.1), scale of x and of y U(0.9, 1.1), angle U(-15, 15) degrees.
    """
    u = jax.random.uniform(key, (11,), jnp.float32)
    symmetric = 2 * u - 1
    adjust = u[2] < _ADJUST
    return Augmentation(
        flip_horizontal=u[0] < _FLIP,
        flip_vertical=u[1] < _FLIP,
        contrast=jnp.where(adjust, 1 + _LIMIT * symmetric[3], np.float32(1)),
        brightness=jnp.where(adjust, 255 * _LIMIT * symmetric[4], np.float32(0)),
        warp=u[5] < _WARP,
        shift=_SHIFT * symmetric[6:8],
        scale=1 + _SCALE * symmetric[8:10],
        angle=_DEGREES * symmetric[10],
    )


def apply(
    image: UInt8[Array, "h w c"], mask: UInt8[Array, "h w"], params: Augmentation
) -> tuple[UInt8[Array, "h w c"], UInt8[Array, "h w"]]:
    """The image and its mask with one :class:`Augmentation` applied.

    Grey level p becomes ``trunc(clip(contrast * p + brightness, 0, 255))``, mask pixels keep their
    value. The warp moves pixel (x, y) to T(centre) T(shift) R S T(-centre) (x, y), bilinear for
    the image, nearest for the mask, zeros beyond the border.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> image, mask = jnp.ones((8, 8, 3), jnp.uint8), jnp.ones((8, 8), jnp.uint8)
        >>> image, mask = apply(image, mask, draw(jax.random.key(0)))
        >>> image.shape, mask.dtype
        ((8, 8, 3), dtype('uint8'))
    """
    image, mask = _when(params.flip_horizontal, _flip(1), image, mask)
    image, mask = _when(params.flip_vertical, _flip(0), image, mask)
    image = _adjust(image, params.contrast, params.brightness)
    return _when(params.warp, lambda image, mask: _warp(image, mask, params), image, mask)


def augment(
    images: UInt8[Array, "b h w c"], masks: UInt8[Array, "b h w"], keys: Shaped[Array, " b"]
) -> tuple[UInt8[Array, "b h w c"], UInt8[Array, "b h w"]]:
    """A batch, each image with the parameters of its key (:func:`keys`).

    Example:
        >>> import jax.numpy as jnp
        >>> images, masks = jnp.ones((2, 8, 8, 3), jnp.uint8), jnp.ones((2, 8, 8), jnp.uint8)
        >>> images, masks = augment(images, masks, keys(2026, 0, jnp.arange(2)))
        >>> images.shape
        (2, 8, 8, 3)
    """
    params = jax.vmap(draw)(keys)

    def one_by_one(images, masks, params):
        return lax.map(lambda each: apply(*each), (images, masks, params))

    # A loop skips the warp of the 70 % of images that have none; vmap computes and discards it.
    return lax.platform_dependent(images, masks, params, cpu=one_by_one, default=jax.vmap(apply))


def normalize(
    images: UInt8[Array, "*b h w c"],
    dtype: DTypeLike = jnp.float32,
    *,
    mean: tuple[float, ...] | None = None,
    sd: tuple[float, ...] | None = None,
) -> Float[Array, "*b h w c"]:
    """``(x / 255 - mean) / sd`` per channel, computed in float32.

    Default: ImageNet's constants for three channels, as the paper has it; for another number of
    channels the mean of these three, the same for every channel.

    Raises:
        ValueError: not one mean and one standard deviation per channel.

    Example:
        >>> import jax.numpy as jnp
        >>> normalize(jnp.full((1, 1, 1), 255, jnp.uint8), mean=(0.5,), sd=(0.25,)).item()
        2.0
    """
    channels = images.shape[-1]
    mean = constants(IMAGENET_MEAN, channels) if mean is None else mean
    sd = constants(IMAGENET_SD, channels) if sd is None else sd
    if not len(mean) == len(sd) == channels:
        raise ValueError(
            f"{channels} channels, but {len(mean)} means and {len(sd)} standard deviations; pass "
            "one number per channel for both, or neither."
        )
    shape = (1,) * (images.ndim - 1) + (-1,)
    offset = np.float32(255 * np.asarray(mean)).reshape(shape)
    scale = np.float32(1 / (255 * np.asarray(sd))).reshape(shape)
    return ((images.astype(jnp.float32) - offset) * scale).astype(dtype)


def constants(of_colours: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """One number per channel: those of three colours or, for other channels, their mean."""
    if channels == len(of_colours):
        return of_colours
    return (sum(of_colours) / len(of_colours),) * channels


def _when(
    flag: Array, function: Callable[[Array, Array], tuple[Array, Array]], image: Array, mask: Array
) -> tuple[Array, Array]:
    return lax.cond(flag, function, lambda image, mask: (image, mask), image, mask)


def _flip(axis: int) -> Callable[[Array, Array], tuple[Array, Array]]:
    return lambda image, mask: (jnp.flip(image, axis), jnp.flip(mask, axis))


def _adjust(image: Array, contrast: Array, brightness: Array) -> Array:
    # The barrier keeps the product rounded: a fused multiply-add would truncate other levels.
    scaled = lax.optimization_barrier(contrast * image.astype(jnp.float32))
    return jnp.clip(scaled + brightness, 0, 255).astype(jnp.uint8)


def _warp(image: Array, mask: Array, params: Augmentation) -> tuple[Array, Array]:
    height, width, channels = image.shape
    x, y = _sources(height, width, params)
    left, above = jnp.floor(x), jnp.floor(y)
    right_share, below_share = x - left, y - above
    # Two pixels of zeros around: every tap of a source beyond the border reads zeros.
    column = jnp.clip(left, -2, width).astype(jnp.int32) + 2
    row = jnp.clip(above, -2, height).astype(jnp.int32) + 2
    words = _pack(jnp.concatenate([image, mask[..., None]], -1))
    words = jnp.pad(words, ((2, 2), (2, 2), (0, 0))).reshape((height + 4) * (width + 4), -1)
    # Without the barrier XLA:CPU packs anew for every tap, which takes three times as long.
    words, first = lax.optimization_barrier((words, row * (width + 4) + column))

    def tap(down: int, across: int) -> Array:
        pixel = words.at[first + down * (width + 4) + across].get(mode="promise_in_bounds")
        return lax.bitcast_convert_type(pixel, jnp.uint8).reshape(height, width, -1)

    def mixed(a: Array, b: Array, share: Array) -> Array:
        return a + (b - a) * share[..., None]

    rows, near = [], []
    for a, b in ((tap(0, 0), tap(0, 1)), (tap(1, 0), tap(1, 1))):
        one, two = (t[..., :channels].astype(jnp.float32) for t in (a, b))
        rows.append(mixed(one, two, right_share))
        near.append(jnp.where(right_share < 0.5, a[..., channels], b[..., channels]))
    warped = jnp.floor(mixed(rows[0], rows[1], below_share) + np.float32(0.5))
    return warped.astype(jnp.uint8), jnp.where(below_share < 0.5, near[0], near[1])


def _sources(height: int, width: int, params: Augmentation) -> tuple[Array, Array]:
    """Where in the source each pixel of the result comes from: x and y, each (h, w)."""
    size = np.array([width, height], np.float32)
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    shift = jnp.trunc(params.shift * size)
    radians = params.angle * np.float32(math.pi / 180)
    cos, sin = jnp.cos(radians), jnp.sin(radians)
    x = (jnp.arange(width, dtype=jnp.float32) - centre_x - shift[0])[None, :]
    y = (jnp.arange(height, dtype=jnp.float32) - centre_y - shift[1])[:, None]
    source_x = (cos * x - sin * y) / params.scale[0] + centre_x
    source_y = (sin * x + cos * y) / params.scale[1] + centre_y
    return source_x, source_y


def _pack(pixels: Array) -> Array:
    """uint8 (h, w, k) as uint32 (h, w, ceil(k / 4)): one gathered word carries four channels."""
    pad = -pixels.shape[-1] % 4
    pixels = jnp.pad(pixels, ((0, 0), (0, 0), (0, pad)))
    return lax.bitcast_convert_type(pixels.reshape(*pixels.shape[:2], -1, 4), jnp.uint32)
