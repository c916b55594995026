"""Augmentation of patches on the device, inside the jitted train step; volumes, slabs and slices.

In order: flips; rotation and zoom; Gaussian noise; gamma; gain and shift of the intensities. Images
are normalized, background near 0 and a standard deviation near 1, and what is added is in units of
this standard deviation. Every patch's draw depends on its key only
(:func:`fp4jax.data.augment.keys`: seed, epoch and index), not on the batch it is in.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fp4jax.core.typing import Array, Float, Shaped
from fp4jax.data.resample import warp

_SHARES = ("flip", "warp", "noise", "gamma")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranges:
    """How much patches are changed, and how often: a hashable value. U is the uniform distribution.

    The defaults are the recipe that MONAI's networks are trained with on BraTS: flips of each axis
    with probability 1/2, intensities times 1 + U(-0.1, 0.1) plus U(-0.1, 0.1) standard deviations.

    Attributes:
        flip: probability, of each axis by itself.
        gain, shift: a channel x becomes (1 + U(-gain, gain)) x + U(-shift, shift), always; with its
            background, as MONAI does it.
        warp: probability of a rotation together with a zoom.
        degrees: largest angle about each axis, U(-degrees, degrees). In slices, slabs that are one
            voxel deep and with ``in_plane`` there is one angle, in the plane of the first two axes.
        zoom: factor, the same for all axes that are rotated; its logarithm is uniform between these
            two. Above 1 enlarges.
        in_plane: whether the last axis of volumes is neither rotated nor zoomed, as is right for
            thick slices, and several times cheaper on a CPU.
        noise: probability of Gaussian noise in all channels.
        noise_sd: its standard deviation is U(0, noise_sd).
        gamma: probability, of all channels, each with an exponent of its own.
        gamma_exponent: x becomes r^exponent, with r the intensity as a share of the channel's
            range, scaled back to that range; the exponent's logarithm is uniform between these two.

    Raises:
        ValueError: a probability outside [0, 1], or a range that is not one.

    Example:
        >>> Ranges(warp=0.2, degrees=15.0).in_plane
        False
    """

    flip: float = 0.5
    gain: float = 0.1
    shift: float = 0.1
    warp: float = 0.0
    degrees: float = 30.0
    zoom: tuple[float, float] = (0.7, 1.4)
    in_plane: bool = False
    noise: float = 0.0
    noise_sd: float = 0.3
    gamma: float = 0.0
    gamma_exponent: tuple[float, float] = (0.7, 1.5)

    def __post_init__(self) -> None:
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"Ranges.{name} is {getattr(self, name)!r}; give a probability, 0 to 1."
                )
        for name in ("gain", "shift", "degrees", "noise_sd"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"Ranges.{name} is {value!r}; give a number of at least 0.")
        for name in ("zoom", "gamma_exponent"):
            low, high = getattr(self, name)
            if not 0 < low <= high < math.inf:
                raise ValueError(
                    f"Ranges.{name} is {(low, high)}; give a lowest and a highest factor above 0."
                )


#: MONAI's recipe for BraTS: flips, gain, shift.
MONAI = Ranges()
#: nnU-Net's ranges, without its blur, contrast and low resolution: MONAI's, stronger gain, noise,
#: gamma, rotation and zoom. Its angles are those of volumes with cubic voxels.
NNUNET = Ranges(gain=0.25, warp=0.2, noise=0.1, gamma=0.3)


class Warp(NamedTuple):
    """Rotation and zoom, see :func:`fp4jax.data.resample.warp`."""

    # bool, whether there is any
    applies: Array
    # degrees, (3,) about the axes or (1,) in the plane of the first two
    angles: Array
    zoom: Array


class Noise(NamedTuple):
    """Gaussian noise."""

    # standard deviation; 0 for none
    sd: Array
    key: Array


class Gamma(NamedTuple):
    """Exponents of the intensities."""

    # bool, whether there is any
    applies: Array
    # (c,)
    exponent: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PatchAugmentation:
    """What is done to one patch (or, with a leading axis, to each of a batch).

    Attributes:
        flips: (axes of space,) bool.
        gain, shift: (c,) factor and summand; 1 and 0 leave the channel as it is.
        warp, noise, gamma: None where the ranges have none.
    """

    flips: Array
    gain: Array
    shift: Array
    warp: Warp | None = None
    noise: Noise | None = None
    gamma: Gamma | None = None


def draw(key: Array, shape: tuple[int, ...], ranges: Ranges = MONAI) -> PatchAugmentation:
    """Random parameters for one patch.

    Args:
        key: of the patch, see :func:`fp4jax.data.augment.keys`.
        shape: of its image, (*space, c).
        ranges: of the parameters.
    """
    rank, channels = len(shape) - 1, shape[-1]
    u = jax.random.uniform(key, (11,), jnp.float32)
    of_channel = jax.random.uniform(jax.random.fold_in(key, 1), (3, channels), jnp.float32)
    signed = 2 * of_channel - 1
    volume = rank == 3 and shape[2] > 1 and not ranges.in_plane
    moved = Warp(
        applies=u[3] < ranges.warp,
        angles=ranges.degrees * (2 * u[4:7] - 1)[: 3 if volume else 1],
        zoom=_between(u[7], ranges.zoom),
    )
    noise = Noise(
        sd=jnp.where(u[8] < ranges.noise, ranges.noise_sd * u[9], np.float32(0)),
        key=jax.random.fold_in(key, 2),
    )
    gamma = Gamma(
        applies=u[10] < ranges.gamma, exponent=_between(of_channel[2], ranges.gamma_exponent)
    )
    return PatchAugmentation(
        flips=u[:rank] < ranges.flip,
        gain=1 + ranges.gain * signed[0],
        shift=ranges.shift * signed[1],
        # What never happens is not compiled either.
        warp=moved if ranges.warp else None,
        noise=noise if ranges.noise else None,
        gamma=gamma if ranges.gamma else None,
    )


def apply(
    image: Float[Array, "*space c"], target: Shaped[Array, "*space k"], params: PatchAugmentation
) -> tuple[Float[Array, "*space c"], Shaped[Array, "*space k"]]:
    """A patch with one :class:`PatchAugmentation` applied; computed in float32.

    Images are interpolated linearly, targets take the nearest voxel; beyond the border is 0.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> image, target = jnp.ones((4, 4, 4, 2)), jnp.ones((4, 4, 4, 3), jnp.uint8)
        >>> params = draw(jax.random.key(0), image.shape)
        >>> image, target = apply(image, target, params)
        >>> image.shape, target.dtype
        ((4, 4, 4, 2), dtype('uint8'))
    """
    dtype, x = image.dtype, image.astype(jnp.float32)
    for axis in range(image.ndim - 1):
        x, target = lax.cond(
            params.flips[axis],
            lambda x, y, axis=axis: (jnp.flip(x, axis), jnp.flip(y, axis)),
            lambda x, y: (x, y),
            x,
            target,
        )
    if (moved := params.warp) is not None:
        x, target = lax.cond(
            moved.applies,
            lambda x, y: warp(x, y, moved.angles, moved.zoom),
            lambda x, y: (x, y),
            x,
            target,
        )
    if (noise := params.noise) is not None:
        x = lax.cond(
            noise.sd > 0,
            lambda x: x + noise.sd * jax.random.normal(noise.key, x.shape, x.dtype),
            lambda x: x,
            x,
        )
    if (gamma := params.gamma) is not None:
        x = lax.cond(gamma.applies, lambda x: _gamma(x, gamma.exponent), lambda x: x, x)
    # Channels last: one row for all voxels.
    flat = x.reshape(-1, x.shape[-1])
    x = (flat * params.gain[None] + params.shift[None]).reshape(x.shape)
    return x.astype(dtype), target


def augment(
    images: Float[Array, "b ..."],
    targets: Shaped[Array, "b ..."],
    keys: Shaped[Array, " b"],
    ranges: Ranges = MONAI,
) -> tuple[Float[Array, "b ..."], Shaped[Array, "b ..."]]:
    """A batch of patches, each with the parameters of its key.

    Args:
        images: (b, x, y, z, c) or (b, h, w, c), normalized, any float dtype.
        targets: masks or labels at the same places, any dtype; channels last.
        keys: one per patch, of :func:`fp4jax.data.augment.keys`.
        ranges: of the parameters; static under jit.

    Raises:
        ValueError: if the shapes do not fit together.

    Example:
        >>> import jax.numpy as jnp
        >>> from fp4jax.data.augment import keys
        >>> images, targets = jnp.ones((2, 8, 8, 1, 4)), jnp.ones((2, 8, 8, 1, 3), jnp.uint8)
        >>> images, targets = augment(images, targets, keys(2026, 0, jnp.arange(2)), NNUNET)
        >>> images.shape
        (2, 8, 8, 1, 4)
    """
    if images.shape[:-1] != targets.shape[:-1] or images.ndim not in (4, 5):
        raise ValueError(
            f"images of shape {images.shape} and targets of shape {targets.shape}; give images "
            "(b, x, y, z, c) or (b, h, w, c) and targets (b, x, y, z, k) or (b, h, w, k)."
        )
    params = jax.vmap(lambda key: draw(key, images.shape[1:], ranges))(keys)

    def one_by_one(images, targets, params):
        return lax.map(lambda each: apply(*each), (images, targets, params))

    # A loop skips what a patch does not have; vmap computes and discards it.
    return lax.platform_dependent(images, targets, params, cpu=one_by_one, default=jax.vmap(apply))


def _between(u: Array, limits: tuple[float, float]) -> Array:
    """U(0, 1) as a factor whose logarithm is uniform between the limits'."""
    low, high = (math.log(limit) for limit in limits)
    return jnp.exp(low + (high - low) * u)


def _gamma(x: Array, exponent: Array) -> Array:
    flat = x.reshape(-1, x.shape[-1])
    low, high = flat.min(0, keepdims=True), flat.max(0, keepdims=True)
    # A constant channel stays as it is.
    span = jnp.where(high > low, high - low, jnp.ones_like(low))
    share = (flat - low) / span
    return (low + span * share ** exponent[None]).reshape(x.shape)
