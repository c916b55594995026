"""Tumour: reaction and diffusion in grey and white matter (Fisher-KPP), and its mass effect.

    du/dt = div(D grad u) + rho u (1 - u),   u in [0, 1]

u is the density of tumour cells. D follows the tissue, D = (white + 0.1 grey) l^2 exp(h), with l
the width of the front and h a random heterogeneity; fluid lets nothing through. Growth stops when
the volume with u > 0.2 is the one drawn. Models of this kind: Swanson et al. 2000, Jbabdi et al.
2005, Konukoglu et al. 2010; on atlases: Prastawa et al. 2009 (TumorSim), Gooya et al. 2012
(GLISTR).
"""

import dataclasses

import numpy as np

from fp4jax.data.phantom.template import Template
from fp4jax.data.phantom.volume import Volume
from fp4jax.extras import Extra

_REACH = 22  # voxels of 3 mm to each side of the seed
_MOST_STEPS = 800
_HIGH_GRADE_SHARE = 0.25
_SMALLEST_CC, _LARGEST_CC = 6.0, 200.0


@dataclasses.dataclass(frozen=True, eq=False)
class Tumour:
    """A grown tumour.

    Attributes:
        high_grade: True for a glioblastoma-like tumour, with necrosis and an enhancing rim.
        growth: six maps on a 3 mm grid around the seed: u, the mass effect (x, y, z, mm) and two
            textures of unit variance, coarse and fine.
        target_cc: the volume that was drawn, cubic centimetres.
        steps: steps of integration.
    """

    high_grade: bool
    growth: Volume
    target_cc: float
    steps: int

    def density(self, blur_mm: float) -> Volume:
        """u alone, blurred by a Gaussian."""
        with Extra("study"):
            from scipy import ndimage

        u = ndimage.gaussian_filter(self.growth.maps[..., 0], blur_mm / self.growth.spacing)
        return dataclasses.replace(self.growth, maps=u[..., None])


def grow(template: Template, rng: np.random.Generator) -> Tumour:
    """A tumour of random place, grade, size and shape: 75 % of low, 25 % of high grade."""
    with Extra("study"):
        from scipy import ndimage

    high_grade = bool(rng.random() < _HIGH_GRADE_SHARE)
    width = rng.uniform(1.5, 3.5) if high_grade else rng.uniform(1.8, 4.5)
    median, sigma = (68.0, 0.6) if high_grade else (62.0, 0.75)
    target = float(np.clip(rng.lognormal(np.log(median), sigma), _SMALLEST_CC, _LARGEST_CC))
    matter, origin = _around_seed(template.matter, rng)
    shape = matter.shape[:3]

    def texture(blur: float) -> np.ndarray:
        noise = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), blur)
        return noise / noise.std()

    rough = np.clip(
        texture(2.4) * rng.uniform(0.4, 1.1) + texture(1.1) * rng.uniform(0.4, 1.1), -2.5, 1.3
    )
    spacing = template.matter.spacing
    allowed = matter[..., 1] + 0.1 * matter[..., 0]
    diffusion = (allowed * (width / spacing) ** 2 * np.exp(rough)).astype(np.float32)
    rate = np.exp(0.3 * texture(3.0)) * (matter.sum(-1) > 0.3)
    u, steps = _integrate(diffusion, allowed > 0.05, rate.astype(np.float32), target, spacing)

    smooth = ndimage.gaussian_filter(u, 9 / spacing)
    pull = np.stack([np.gradient(smooth, axis=axis) for axis in range(3)], -1)
    strongest = np.sqrt((pull**2).sum(-1)).max()
    pull *= rng.uniform(0, 9) / strongest
    maps = np.concatenate([u[..., None], pull, np.stack([texture(1.5), texture(0.6)], -1)], -1)
    return Tumour(high_grade, Volume(maps.astype(np.float32), origin, spacing), target, steps)


def _around_seed(matter: Volume, rng: np.random.Generator):
    """Grey and white matter within reach of a random voxel of cerebral white matter."""
    x, y, z = matter.axes()
    weight = (matter.maps[..., 1] > 0.6) & (z > -18) & (z < 52)
    weight = weight * np.where(np.abs(x) > 12, 1.0, 0.1) * np.where(y > 0, 1.6, 1.0)
    cumulative = np.cumsum(weight.ravel())
    chosen = np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")
    seed = np.array(np.unravel_index(chosen, weight.shape))
    padded = np.pad(matter.maps, [(_REACH, _REACH)] * 3 + [(0, 0)])
    box = tuple(slice(int(s), int(s) + 2 * _REACH + 1) for s in seed)
    first = np.asarray(matter.origin) + matter.spacing * (seed - _REACH)
    return padded[box], (float(first[0]), float(first[1]), float(first[2]))


def _integrate(diffusion, permeable, rate, target_cc, spacing):
    """Explicit Euler from one voxel until the volume is reached; lengths in voxels."""
    step = np.float32(min(0.9 / (6 * float(diffusion.max())), 0.2))
    faces = []
    for axis in range(3):
        low, high = _sides(axis)
        open_face = permeable[low] & permeable[high]
        faces.append(step * 0.5 * (diffusion[low] + diffusion[high]) * open_face)
    growth = step * rate
    u = np.zeros(diffusion.shape, np.float32)
    u[_REACH - 1 : _REACH + 2, _REACH - 1 : _REACH + 2, _REACH - 1 : _REACH + 2] = 0.5
    u *= rate > 0
    voxels = target_cc * 1000 / spacing**3
    steps = 0
    while np.count_nonzero(u > 0.2) < voxels and steps < _MOST_STEPS:
        change = growth * u * (1 - u)
        for axis, conductance in enumerate(faces):
            low, high = _sides(axis)
            flux = conductance * (u[high] - u[low])
            change[low] += flux
            change[high] -= flux
        u += change
        np.clip(u, 0, 1, out=u)
        steps += 1
    return u, steps


def _sides(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The voxels before and after each face across the axis."""
    everything = [slice(None)] * 3
    low, high = everything.copy(), everything.copy()
    low[axis], high[axis] = slice(None, -1), slice(1, None)
    return tuple(low), tuple(high)
