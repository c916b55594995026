"""Rotation and zoom of a patch about its centre: linear for the image, nearest for the target."""

import itertools
import math

import jax.numpy as jnp
import numpy as np
from jax import lax

from fp4jax.core.typing import Array, Float, Shaped


def warp(
    image: Float[Array, "*space c"],
    target: Shaped[Array, "*space k"],
    angles: Float[Array, " angles"],
    zoom: Float[Array, ""],
) -> tuple[Float[Array, "*space c"], Shaped[Array, "*space k"]]:
    """An image and its target, rotated and zoomed; zeros beyond the border.

    The voxel at u from the centre of the result is the one at ``R u / zoom`` from the centre of the
    source, in voxels, with R = R_0 R_1 R_2 the rotations about the three axes. With one angle
    it is the rotation about the last axis alone, of all voxels along it together: R takes
    (1, 0) to (cos, sin).

    Args:
        image: (x, y, z, c), or with one angle (h, w, c) too; float32.
        target: (*space, k), any dtype.
        angles: degrees, (3,) or (1,).
        zoom: factor; above 1 enlarges.

    Raises:
        ValueError: for another number of angles.

    Example:
        >>> import jax.numpy as jnp
        >>> image = jnp.arange(9.0).reshape(3, 3, 1)
        >>> image, _ = warp(image, image, jnp.array([90.0]), jnp.float32(1.0))
        >>> image[..., 0].round().tolist()
        [[6.0, 3.0, 0.0], [7.0, 4.0, 1.0], [8.0, 5.0, 2.0]]
    """
    axes = {1: 2, 3: 3}.get(angles.shape[0])
    if axes is None or image.ndim - 1 < axes:
        raise ValueError(
            f"{angles.shape[0]} angles for an image of shape {image.shape}; give 3 for one of "
            "(x, y, z, c), or 1 to rotate in the plane of the first two axes."
        )
    sources = _sources(image.shape[:axes], angles, zoom)
    rows = image.reshape(*image.shape[:axes], -1), target.reshape(*image.shape[:axes], -1)
    return (
        _linear(rows[0], sources).reshape(image.shape),
        _nearest(rows[1], sources).reshape(target.shape),
    )


def _sources(space: tuple[int, ...], angles: Array, zoom: Array) -> list[Array]:
    """Where each voxel of the result comes from: a coordinate per axis, each of shape ``space``."""
    radians = angles * np.float32(math.pi / 180)
    cos, sin = jnp.cos(radians), jnp.sin(radians)
    centres = [np.float32((n - 1) / 2) for n in space]
    u = []
    for axis, (n, centre) in enumerate(zip(space, centres, strict=True)):
        line = jnp.arange(n, dtype=jnp.float32) - centre
        shape = [-1 if a == axis else 1 for a in range(len(space))]
        u.append(jnp.broadcast_to(line.reshape(shape), space))
    # The rotation about the last axis first: the product R_0 R_1 R_2 u from the right.
    planes = ((0, 1),) if len(space) == 2 else ((0, 1), (2, 0), (1, 2))
    for angle, (i, j) in zip(reversed(range(len(planes))), planes, strict=True):
        u[i], u[j] = cos[angle] * u[i] - sin[angle] * u[j], sin[angle] * u[i] + cos[angle] * u[j]
    return [c / zoom + centre for c, centre in zip(u, centres, strict=True)]


def _linear(rows: Array, sources: list[Array]) -> Array:
    """Rows (*space, f) at the sources, interpolated along each axis in turn."""
    floors = [jnp.floor(c) for c in sources]
    shares = [(c - f)[..., None] for c, f in zip(sources, floors, strict=True)]
    flat, first, strides = _padded(rows, floors)
    taps = {}
    for corner in itertools.product((0, 1), repeat=len(sources)):
        step = sum(s for s, on in zip(strides, corner, strict=True) if on)
        taps[corner] = flat.at[first + step].get(mode="promise_in_bounds")
    for axis in reversed(range(len(sources))):
        corners = [c for c in taps if len(c) == axis + 1 and not c[axis]]
        taps = {
            c[:axis]: taps[c] + (taps[(*c[:axis], 1)] - taps[c]) * shares[axis] for c in corners
        }
    return taps[()]


def _nearest(rows: Array, sources: list[Array]) -> Array:
    flat, first, _ = _padded(rows, [jnp.floor(c + np.float32(0.5)) for c in sources])
    return flat.at[first].get(mode="promise_in_bounds")


def _padded(rows: Array, floors: list[Array]) -> tuple[Array, Array, list[int]]:
    """Rows as (voxels, f) with zeros around, the index of each floor there, and axes' strides."""
    space, rank = rows.shape[:-1], len(floors)
    # Two voxels of zeros: every tap of a source beyond the border reads zeros.
    sizes = [n + 4 for n in space]
    strides = [math.prod(sizes[a + 1 :]) for a in range(rank)]
    first = sum(
        (jnp.clip(f, -2, n).astype(jnp.int32) + 2) * stride
        for f, n, stride in zip(floors, space, strides, strict=True)
    )
    padded = jnp.pad(rows, [(2, 2)] * rank + [(0, 0)]).reshape(math.prod(sizes), -1)
    # Without the barrier XLA:CPU pads anew for every tap.
    padded, first = lax.optimization_barrier((padded, jnp.asarray(first)))
    return padded, first, strides
