"""Lesions that are not the tumour and never labelled: what a threshold on FLAIR confuses with it.

White-matter hyperintensities of age, and scars or old infarcts, are drawn as soft balls into a map
on the template's grid.
"""

import numpy as np

from fp4jax.data.phantom.template import Template
from fp4jax.data.phantom.volume import Volume


def draw_lesions(template: Template, age: float, rng: np.random.Generator) -> Volume:
    """A map of lesions in [0, 1] on the 1.5 mm grid, stored as uint8 of 255.

    Args:
        template: whose white matter the small ones lie in.
        age: 0 (young) to 1 (old); the number of small ones is Poisson(2 + 16 age).
        rng: source of the numbers.
    """
    tissue = template.tissue
    lesions = np.zeros(tissue.maps.shape[:3], np.float32)
    white = tissue.maps[..., 1]
    for _ in range(rng.poisson(2 + 16 * age)):
        _stamp(lesions, _voxel(white, 200, rng), rng.uniform(1.2, 3.6), 1.0, tissue.spacing)
    if rng.random() < 0.5:
        grey_or_white = np.maximum(white, tissue.maps[..., 0])
        for _ in range(rng.integers(0, 3)):
            centre, size = _voxel(grey_or_white, 150, rng), rng.uniform(4, 9)
            # A few overlapping balls: rounder than one, less round than a sphere.
            for _ in range(4):
                offset = rng.normal(0, 0.45 * size, 3)
                _stamp(
                    lesions,
                    centre + offset / tissue.spacing,
                    size * rng.uniform(0.4, 0.8),
                    rng.uniform(0.7, 1.0),
                    tissue.spacing,
                )
    return Volume(
        np.round(255 * lesions).astype(np.uint8)[..., None], tissue.origin, tissue.spacing
    )


def _voxel(values: np.ndarray, least: int, rng: np.random.Generator) -> np.ndarray:
    """A random voxel of at least this value, by trial: most of a brain qualifies."""
    shape = np.array(values.shape)
    while True:
        tried = rng.integers(0, shape, (64, 3))
        good = tried[values[tuple(tried.T)] >= least]
        if len(good):
            return good[0].astype(float)


def _stamp(lesions, centre, radius, height, spacing) -> None:
    """Raises the map to a ball with a soft edge; centre in voxels, radius in mm."""
    reach = int(np.ceil(radius / spacing)) + 2
    first = np.clip(np.round(centre).astype(int) - reach, 0, lesions.shape)
    last = np.clip(first + 2 * reach + 1, 0, lesions.shape)
    x, y, z = ((np.arange(a, b) - c) * spacing for a, b, c in zip(first, last, centre, strict=True))
    distance = np.sqrt(x[:, None, None] ** 2 + y[:, None] ** 2 + z**2)
    ball = height * np.clip((radius - distance) / 1.5 + 0.5, 0, 1)
    box = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
    np.maximum(lesions[box], ball, out=lesions[box], casting="same_kind")
