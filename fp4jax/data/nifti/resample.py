"""Resampling to another spacing, and back.

The new grid covers the same box as the old one: its centre stays, the number of voxels of each axis
is round(n * spacing / new spacing). Voxel i of n' new ones lies at the old index
(i + 1/2 - n'/2) * step + n/2 - 1/2 with step = new / old spacing, clipped to the grid. Axes are
treated one after the other, which for linear interpolation is exact.
"""

import numpy as np

from fp4jax.core.typing import Shaped

Three = tuple[float, float, float]


def resampled_shape(shape: tuple[int, ...], spacing: Three, new: Three) -> tuple[int, ...]:
    """Number of voxels along each axis at the new spacing, at least 1.

    Example:
        >>> resampled_shape((240, 240, 31), (1.0, 1.0, 5.0), (2.0, 1.0, 1.0))
        (120, 240, 155)
    """
    return tuple(
        max(1, round(n * old / wanted)) for n, old, wanted in zip(shape, spacing, new, strict=True)
    )


def resampled_affine(
    affine: Shaped[np.ndarray, "4 4"],
    shape: tuple[int, ...],
    new_shape: tuple[int, ...],
    new: Three,
) -> np.ndarray:
    """The affine of the new grid: the same directions, columns as long as the new spacing."""
    steps = np.asarray(new) / np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    move = np.diag([*steps, 1.0])
    move[:3, 3] = (0.5 - np.asarray(new_shape) / 2) * steps + np.asarray(shape) / 2 - 0.5
    return affine @ move


def resample(
    data: Shaped[np.ndarray, "x y z *c"],
    shape: tuple[int, ...],
    steps: tuple[float, ...],
    *,
    linear: bool,
) -> Shaped[np.ndarray, "x2 y2 z2 *c"]:
    """``data`` at ``shape`` voxels that are ``steps`` old voxels apart.

    Args:
        data: floating for ``linear``, else of any type.
        shape, steps: of the three axes. No low-pass filter is applied: steps above 2 alias.
        linear: linear interpolation, or the nearest voxel.

    Example:
        >>> import numpy as np
        >>> data = np.arange(4, dtype=np.float32).reshape(4, 1, 1)
        >>> resample(data, (2, 1, 1), (2.0, 1.0, 1.0), linear=True).ravel().tolist()
        [0.5, 2.5]
    """
    for axis, (n, step) in enumerate(zip(shape, steps, strict=True)):
        old = data.shape[axis]
        if n == old and abs(step - 1) < 1e-9:
            continue
        position = (np.arange(n) + 0.5 - n / 2) * step + old / 2 - 0.5
        position = np.clip(position, 0, old - 1)
        if not linear:
            data = np.take(data, np.floor(position + 0.5).astype(np.intp), axis)
            continue
        first = np.floor(position).astype(np.intp)
        weight = (position - first).astype(data.dtype)
        weight = weight.reshape(-1, *(1,) * (data.ndim - axis - 1))
        last = np.minimum(first + 1, old - 1)
        low = np.take(data, first, axis)
        data = low + (np.take(data, last, axis) - low) * weight
    return data
