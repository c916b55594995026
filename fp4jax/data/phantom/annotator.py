"""Annotator: a person who outlines the tumour slice by slice, never the same way twice.

    mask = (u blurred by 1 mm + jitter of the slice + noise along the contour) > threshold

opened, freed of specks below 25 mm2, holes filled. The threshold is the rater's own; two raters
of one patient bound what a network can reach.
"""

import numpy as np

from fp4jax.data.phantom import fields
from fp4jax.data.phantom.anatomy import Anatomy
from fp4jax.data.phantom.components import components
from fp4jax.data.phantom.geometry import Geometry
from fp4jax.data.phantom.tumour import Tumour
from fp4jax.extras import Extra

_BLUR = 1.0
_OPENING = 1.85
_SMALLEST = 25.0


def annotate(
    anatomy: Anatomy,
    points: np.ndarray,
    geometry: Geometry,
    tumour: Tumour,
    rng: np.random.Generator,
) -> np.ndarray:
    """The mask, uint8 0 or 1 (slices, rows, columns); the positive slices are contiguous."""
    shape = tuple(len(axis) for axis in geometry.axes)
    threshold = rng.uniform(0.14, 0.30)
    jitter = rng.normal(0, 0.035, shape[0]).astype(np.float32)
    control = fields.control_points(rng, (24, 26, 26), 0.045)
    outline = fields.evaluate(control, geometry.axes, unit=True)

    candidates = np.flatnonzero(anatomy.density > 0.01)
    density = np.zeros(int(np.prod(shape)), np.float32)
    density[anatomy.pixels[candidates]] = tumour.density(_BLUR).sample(points[:, candidates])[0]
    density = density.reshape(shape)
    drawn = (density > 0.01) & (density + outline + jitter[:, None, None] > threshold)
    area = geometry.spacing[1] * geometry.spacing[2]
    opening = round(_OPENING / geometry.spacing[1])
    mask = np.zeros(shape, np.uint8)
    for k in np.flatnonzero(drawn.any((1, 2))):
        mask[k] = _tidy(drawn[k], opening, _SMALLEST / area)
    return _contiguous(mask)


def _tidy(drawn: np.ndarray, opening: int, smallest: float) -> np.ndarray:
    """One slice: opened, small parts dropped, holes filled."""
    with Extra("study"):
        from scipy import ndimage

    if opening:
        drawn = ndimage.binary_opening(drawn, iterations=opening)
    labels, sizes = components(drawn)
    return np.asarray(ndimage.binary_fill_holes((sizes >= smallest)[labels]))


def _contiguous(mask: np.ndarray) -> np.ndarray:
    """The run of positive slices with most pixels; raters leave out specks beyond an empty one."""
    areas = mask.sum((1, 2), dtype=int)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], areas > 0, [False]])))
    runs = edges.reshape(-1, 2)
    if len(runs) > 1:
        first, last = runs[np.argmax([areas[a:b].sum() for a, b in runs])]
        mask[:first] = 0
        mask[last:] = 0
    return mask
