"""Connected components of a mask, with their sizes."""

import numpy as np

from fp4jax.extras import Extra


def components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels (0 where the mask is not) and the number of pixels by label (0 for label 0).

    Example:
        >>> labels, sizes = components(np.array([True, True, False, True]))
        >>> labels.tolist(), sizes.tolist()
        ([1, 1, 0, 2], [0, 2, 1])
    """
    with Extra("study"):
        from scipy import ndimage

    labels = np.zeros(mask.shape, np.int32)
    ndimage.label(mask, output=labels)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return labels, sizes
