"""Contrast: the brightness of every tissue on every sequence, white matter = 1.

Means and spreads follow usual clinical sequences; a patient's values are drawn about them. Gliomas
are bright on FLAIR and T2 and dark on T1, by an amount (``vis``) that varies between patients, and
blend into their surroundings over the infiltrated border.
"""

import dataclasses

import numpy as np

from fp4jax.data.phantom.anatomy import TISSUES, Anatomy

#: The four sequences of a glioma protocol; T1c is T1 after contrast agent.
CONTRASTS = ("t1", "t1c", "t2", "flair")

# Mean and relative spread between patients.
_LEVELS = {
    "t1": {
        "fluid": (0.28, 0.12),
        "grey": (0.74, 0.06),
        "white": (1.0, 0.0),
        "bone": (0.10, 0.3),
        "fat": (1.55, 0.15),
        "muscle": (0.55, 0.1),
        "eye": (0.32, 0.12),
    },
    "flair": {
        "fluid": (0.22, 0.25),
        "grey": (1.13, 0.05),
        "white": (1.0, 0.0),
        "bone": (0.10, 0.3),
        "fat": (1.55, 0.25),
        "muscle": (0.6, 0.1),
        "eye": (0.26, 0.25),
    },
    "t2": {
        "fluid": (2.1, 0.1),
        "grey": (1.25, 0.05),
        "white": (1.0, 0.0),
        "bone": (0.10, 0.3),
        "fat": (1.4, 0.2),
        "muscle": (0.5, 0.1),
        "eye": (2.0, 0.1),
    },
}
_RESIDUAL = {"t1": 1.1, "flair": -0.5, "t2": -0.7}
_LESION = {"t1": -0.12, "flair": 0.42, "t2": 0.5}
_CAPS = {"t1": -0.05, "flair": 0.3, "t2": 0.25}
_SMALLEST_DENSITY = 0.06


@dataclasses.dataclass(frozen=True)
class Look:
    """How one patient's tumour looks.

    Attributes:
        vis: conspicuity, 0 to 1.
        border: difference of u over which it blends in.
        coarse, fine: spreads of the textures.
        necrosis: u above which it is necrotic or cystic, or None.
        rim: (u of the enhancing rim, its width in u, its brightness), or None.
        patchy: the rim is interrupted.
        fluid: FLAIR brightness of the necrosis relative to its surroundings.
    """

    vis: float
    border: float
    coarse: float
    fine: float
    necrosis: float | None
    rim: tuple[float, float, float] | None
    patchy: bool
    fluid: float


def draw_look(high_grade: bool, rng: np.random.Generator) -> Look:
    """High grades always have necrosis and a rim; a fifth and a quarter of low grades do."""
    vis, border = rng.beta(2, 2), rng.uniform(0.22, 0.5)
    coarse, fine = rng.uniform(0.04, 0.16), rng.uniform(0.02, 0.07)
    necrosis, rim = rng.uniform(0.8, 0.9), (rng.uniform(0.72, 0.82), rng.uniform(0.07, 0.12))
    strength, fluid = 1.4 * rng.uniform(0.35, 0.95), rng.uniform(0.4, 0.7)
    has_necrosis, has_rim = rng.random() < 0.2, rng.random() < 0.25
    return Look(
        vis=vis,
        border=border,
        coarse=coarse,
        fine=fine,
        necrosis=necrosis if high_grade or has_necrosis else None,
        rim=(*rim, strength) if high_grade or has_rim else None,
        patchy=not high_grade,
        fluid=fluid,
    )


def enhancement(anatomy: Anatomy, look: Look) -> np.ndarray:
    """Brightness that contrast agent adds in the tumour: a Gaussian in u, patchy in low grades."""
    if look.rim is None:
        return np.zeros_like(anatomy.density)
    centre, width, height = look.rim
    rim = height * np.exp(-0.5 * ((anatomy.density - centre) / width) ** 2)
    if look.patchy:
        rim = rim * np.clip(anatomy.coarse, 0, 1)
    return (rim * (anatomy.density > 0.35)).astype(np.float32)


def draw_intensities(
    anatomy: Anatomy, look: Look, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Brightness (n,) of the head's pixels on all four sequences."""
    images = {}
    for name in ("t1", "flair", "t2"):
        image = np.zeros(len(anatomy.pixels), np.float32)
        for tissue in TISSUES:
            mean, spread = _LEVELS[name][tissue]
            level = mean * np.clip(rng.normal(1, spread), 0.4, 1.8)
            image += np.float32(level) * anatomy.fractions[tissue]
        strength = np.float32(rng.uniform(0.6, 1.2))
        image += np.float32(_RESIDUAL[name]) * anatomy.residual
        image += strength * (_LESION[name] * anatomy.lesion + _CAPS[name] * anatomy.caps)
        if name == "flair":
            image += np.float32(rng.uniform(0.2, 0.9)) * anatomy.flow
        images[name] = np.maximum(image, np.float32(0.01))
    _add_tumour(images, anatomy, look)
    gain = np.float32(1 + rng.uniform(-0.02, 0.02))
    vessels = np.float32(rng.uniform(0.5, 1.2)) * anatomy.vessel
    images["t1c"] = gain * images["t1"] + vessels + np.float32(0.25) * anatomy.dura
    images["t1c"] += enhancement(anatomy, look)
    if look.necrosis is not None:
        images["t1c"] *= 1 - 0.12 * _necrosis(anatomy, look)
    return images


def _add_tumour(images: dict[str, np.ndarray], anatomy: Anatomy, look: Look) -> None:
    """Blends the tumour's brightness in, by u; in place."""
    vis = look.vis
    targets = {"t1": 0.90 - 0.28 * vis, "flair": 1.20 + 0.55 * vis, "t2": 1.30 + 0.75 * vis}
    t = np.clip((anatomy.density - _SMALLEST_DENSITY) / np.float32(look.border), 0, 1)
    # Sulci and ventricles inside the tumour keep some of their fluid.
    weight = t * t * (3 - 2 * t) * (1 - 0.6 * anatomy.fractions["fluid"])
    texture = look.coarse * anatomy.coarse + look.fine * anatomy.fine
    fluid = {"t1": 0.75, "flair": look.fluid, "t2": 1.2}
    dead = _necrosis(anatomy, look)
    for name, target in targets.items():
        # Textures are opposite on T1: more water is darker there.
        sign = -0.6 if name == "t1" else 1.0
        level = np.float32(target) * (1 + np.float32(sign) * texture.clip(-0.5, 0.5))
        level = level * (1 - dead * np.float32(1 - fluid[name]))
        images[name] += weight * (level - images[name])


def _necrosis(anatomy: Anatomy, look: Look) -> np.ndarray:
    """Share of necrosis or cyst: where u is highest."""
    if look.necrosis is None:
        return np.zeros((), np.float32)
    return np.clip((anatomy.density - np.float32(look.necrosis)) / np.float32(0.05) + 0.5, 0, 1)
