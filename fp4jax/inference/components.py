"""without_small: masks without their small connected components.

Components are connected through faces (6 neighbours of a voxel, 4 of a pixel). Regions are treated
one by one: of nested regions the smaller one's components lie within the larger one's, so that
what is left is nested too.
"""

import numpy as np

from fp4jax.core.typing import UInt8
from fp4jax.extras import Extra


def without_small(
    masks: UInt8[np.ndarray, "*space r"], voxels: int | float
) -> UInt8[np.ndarray, "*space r"]:
    """The masks without components of fewer than so many voxels.

    Args:
        masks: of r regions, 0 and 1.
        voxels: the least size that stays; 1 or less leaves everything.

    Needs scipy.

    Example:
        >>> import numpy as np
        >>> masks = np.array([1, 1, 0, 1], np.uint8)[:, None]
        >>> without_small(masks, 2).ravel().tolist()
        [1, 1, 0, 0]
    """
    if voxels <= 1:
        return masks
    with Extra("study"):
        from scipy import ndimage

    kept = np.empty_like(masks)
    for r in range(masks.shape[-1]):
        labels = np.zeros(masks.shape[:-1], np.int32)
        ndimage.label(masks[..., r], output=labels)
        stays = np.bincount(labels.ravel()) >= voxels
        stays[0] = False
        kept[..., r] = stays[labels]
    return kept
