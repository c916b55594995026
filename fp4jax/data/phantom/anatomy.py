"""Anatomy: what a head is made of at each of its pixels.

The brain's tissues come from the template at T + push, the tissue that the tumour has pushed there.
All other tissues follow from the distances to the brain and to the skin, and from smooth noise.
"""

import dataclasses

import numpy as np

from fp4jax.data.phantom import fields
from fp4jax.data.phantom.geometry import Geometry
from fp4jax.data.phantom.lesions import draw_lesions
from fp4jax.data.phantom.template import EYE, EYE_RADIUS, Template
from fp4jax.data.phantom.tumour import Tumour

#: Tissues that fractions are given for; what remains is air.
TISSUES = ("fluid", "grey", "white", "bone", "fat", "muscle", "eye")


@dataclasses.dataclass(frozen=True, eq=False)
class Anatomy:
    """The n pixels of the head; every array but ``pixels`` is float32 (n,) or a dict of such.

    Attributes:
        pixels: positions in the flattened scan.
        fractions: share of each of TISSUES.
        residual: template's T1 minus the mean of its tissues, in units of white matter.
        lesion: share of unlabelled lesions.
        caps: brightening of the white matter next to the ventricles.
        flow: brightening of fluid on FLAIR by its pulsation.
        vessel: share of enhancing vessels and choroid.
        dura: share of enhancing dura.
        density: u of the tumour.
        coarse: texture of the tumour, unit variance.
        fine: finer texture.
    """

    pixels: np.ndarray
    fractions: dict[str, np.ndarray]
    residual: np.ndarray
    lesion: np.ndarray
    caps: np.ndarray
    flow: np.ndarray
    vessel: np.ndarray
    dura: np.ndarray
    density: np.ndarray
    coarse: np.ndarray
    fine: np.ndarray


def build_anatomy(
    template: Template, geometry: Geometry, tumour: Tumour, rng: np.random.Generator
) -> tuple[Anatomy, np.ndarray]:
    """The anatomy, and T(p) of its pixels, (3, n) mm."""
    age = rng.beta(1.3, 1.6)
    lesions = draw_lesions(template, age, rng)
    all_points = geometry.template_points().reshape(3, -1)
    distances = template.distance.sample(all_points)
    pixels = np.flatnonzero(distances[1] < 1.0)
    points = all_points[:, pixels]
    d_brain, d_head = distances[:, pixels]

    def noise(shape: tuple[int, int, int]) -> np.ndarray:
        control = fields.control_points(rng, shape)
        return fields.evaluate(control, geometry.axes, unit=True).reshape(-1)[pixels]

    near = tumour.growth.inside(points)
    growth = np.zeros((6, len(pixels)), np.float32)
    growth[:, near] = tumour.growth.sample(points[:, near])

    # Old brains leave more room to the skull.
    atrophy = np.float32(-0.5 + 2.7 * np.clip(age + rng.normal(0, 0.15), 0, 1))
    inner = np.flatnonzero(d_brain < atrophy + 1.5)
    moved = points[:, inner] + growth[1:4, inner]
    maps = np.zeros((5, len(pixels)), np.float32)
    maps[:4, inner] = template.tissue.sample(moved)
    maps[4, inner] = lesions.sample(moved)[0]
    cranial = _ramp(atrophy - d_brain, 1.5)
    sharpness = np.float32(rng.uniform(1.1, 2.0))
    fractions = _brain(maps[0] / 255, maps[1] / 255, cranial, sharpness)
    ventricles = maps[3] / 255

    fluid = fractions["fluid"]
    low = _ramp(-points[2] - 10, 20)  # pulsation is strongest around the brain stem
    flow = fluid * np.clip(noise((20, 28, 28)) - 0.9, 0, 2) * (0.3 + 0.9 * low)
    vessel = fluid * np.clip(noise((44, 60, 60)) - 1.1, 0, 1.5)
    choroid = ventricles * fluid * np.clip(noise((44, 60, 60)) - 0.7, 0, 1.2)
    shell = np.exp(-(((d_brain - atrophy) / 1.0) ** 2))
    falx = fluid * np.exp(-((points[0] / 1.2) ** 2)) * (points[2] > 0)
    caps = fractions["white"] * np.clip(2.5 * ventricles - 0.25, 0, 1) * np.float32(0.2 + 0.8 * age)

    fractions |= _outside(
        points,
        d_brain,
        d_head,
        cranial,
        noise=(noise((20, 26, 26)), noise((32, 44, 44)), noise((10, 12, 12))),
        atrophy=atrophy,
        rng=rng,
    )
    anatomy = Anatomy(
        pixels=pixels,
        fractions=fractions,
        residual=(maps[2] - 128) / 100 * (maps[2] > 0),
        lesion=maps[4] / 255 * cranial * (1 - fluid),
        caps=caps,
        flow=flow,
        vessel=vessel + 1.2 * choroid,
        dura=np.maximum(shell, falx),
        density=growth[0] * (d_brain < 1),
        coarse=growth[4],
        fine=growth[5],
    )
    return anatomy, points


def _brain(grey, white, cranial, sharpness) -> dict[str, np.ndarray]:
    """Fractions p^q / sum p^q of the tissues inside the skull; fluid is what remains of 1."""
    powers = {
        "fluid": np.clip(1 - grey - white, 0, 1) ** sharpness,
        "grey": grey**sharpness,
        "white": white**sharpness,
    }
    total = powers["fluid"] + powers["grey"] + powers["white"] + np.float32(1e-6)
    return {name: cranial * power / total for name, power in powers.items()}


def _outside(points, d_brain, d_head, cranial, *, noise, atrophy, rng) -> dict[str, np.ndarray]:
    """Fractions of skull, scalp, face and eyes."""
    x, y, z = points
    blobs, grains, drift = noise
    head = _ramp(-d_head, 1.5) * (1 - cranial)
    thickness = np.float32(rng.uniform(4, 8)) * np.exp(0.22 * drift)
    scalp = head * _ramp(d_head + thickness, 1.5)
    skin = scalp * _ramp(d_head + 1.6, 1.0)
    deep = head - scalp
    bone = deep * _ramp(np.float32(rng.uniform(8.5, 10.5)) + 0.8 * drift - d_brain, 1.5)
    middle = (atrophy + 14 - thickness) / 2
    marrow = bone * np.exp(-(((d_brain - middle) / 1.3) ** 2)) * np.clip(0.45 + 0.2 * blobs, 0, 0.8)
    face = deep - bone

    # Temples and nape are muscle under a thin layer of fat.
    temples = _ramp(
        1 - ((np.abs(x) - 66) / 15) ** 2 - ((y - 8) / 34) ** 2 - ((z + 22) / 34) ** 2, 1
    )
    nape = _ramp(-36 - z, 10) * _ramp(-52 - y, 10)
    muscle = np.maximum(temples, nape) * _ramp(-3.0 - d_head, 1.5) * (scalp - skin)

    # Paranasal sinuses and airways in the middle, fat and muscle around them.
    central = _ramp(30 - np.abs(x), 16) * _ramp(y - 5, 20)
    air = face * _ramp(blobs - 0.9 + 1.1 * central, 0.5)
    soft = face - air
    fatty = _ramp(0.8 * grains + 0.4 * blobs - 0.1, 1.0)

    offset = [np.abs(x) - EYE[0], y - EYE[1], z - EYE[2]]
    to_eye = np.sqrt(offset[0] ** 2 + offset[1] ** 2 + offset[2] ** 2)
    globe = _ramp(EYE_RADIUS - to_eye, 1.2) * head
    # Behind the globe a cone of fat narrows towards the optic canal.
    aside = np.sqrt((np.abs(x) - EYE[0] - 0.35 * offset[1]) ** 2 + offset[2] ** 2)
    cone = _ramp(17 + 0.3 * np.minimum(offset[1], 0) - aside, 2) * _ramp(offset[1] + 36, 4)
    orbit = cone * _ramp(10 - offset[1], 4) * (1 - cranial) * _ramp(d_brain - 2, 1) * head
    nerve = _ramp(2.2 - aside, 1) * _ramp(-offset[1] - 9, 2)
    rest = (1 - globe) * (1 - orbit)
    outside = (1 - globe) * orbit
    return {
        "bone": rest * (bone - marrow),
        "fat": rest * (scalp - 0.8 * skin - muscle + marrow + soft * fatty) + outside * (1 - nerve),
        "muscle": rest * (0.8 * skin + muscle + soft * (1 - fatty)) + outside * nerve,
        "eye": globe,
    }


def _ramp(value, width) -> np.ndarray:
    """0 to 1 over the width, one half at value 0: the edge of a tissue, anti-aliased."""
    return np.clip(value / np.float32(width) + np.float32(0.5), 0, 1)
