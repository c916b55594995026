"""Patient: one synthetic examination with its annotation, and how it is made."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from fp4jax.core.typing import UInt8
from fp4jax.data.phantom.acquisition import acquire, draw_scanner
from fp4jax.data.phantom.anatomy import build_anatomy
from fp4jax.data.phantom.annotator import annotate
from fp4jax.data.phantom.contrast import CONTRASTS, draw_intensities, draw_look, enhancement
from fp4jax.data.phantom.fields import stream
from fp4jax.data.phantom.geometry import Grid, draw_geometry
from fp4jax.data.phantom.template import load_template
from fp4jax.data.phantom.tumour import grow

_CORE_DENSITY = 0.6
_ENHANCING = 0.2


@dataclasses.dataclass(frozen=True, eq=False)
class Patient:
    """One examination; all volumes are uint8 (slices, rows, columns).

    Row 0 is anterior, column 0 the patient's right, slice 0 the lowest.

    Attributes:
        index: number of the patient.
        seed: of the cohort.
        high_grade: glioblastoma-like (necrosis, enhancing rim) or a lower grade.
        images: volumes by contrast: t1, t1c, t2, flair, or those asked for.
        mask: 1 where the annotator sees tumour, else 0.
        labels: BraTS 2023's values: 0 none, 1 necrotic or solid core, 2 oedema and infiltration,
            3 enhancing. Their union is the mask.
        brain: 1 inside the skull, for skull stripping.
        spacing: distances of slices, rows and columns, mm.
        affine: 4 x 4, voxel (column, row, slice) to mm right, anterior, superior, as in NIfTI.
    """

    index: int
    seed: int
    high_grade: bool
    images: dict[str, np.ndarray]
    mask: UInt8[np.ndarray, "slices h w"]
    labels: UInt8[np.ndarray, "slices h w"]
    brain: UInt8[np.ndarray, "slices h w"]
    spacing: tuple[float, float, float]
    affine: np.ndarray


def patient(
    index: int,
    seed: int = 2026,
    *,
    slices: int = 30,
    image_size: int = 128,
    contrasts: Sequence[str] = CONTRASTS,
    rater: int = 0,
) -> Patient:
    """Makes patient ``index`` of the cohort ``seed``; the same every time.

    Neither the resolution, the contrasts asked for nor the rater change the anatomy: patient 3 at
    64 and at 256 pixels is the same person. Equal bits are promised on one machine with the same
    NumPy and SciPy; elsewhere a few pixels may differ by a grey level.

    Args:
        index: from 0.
        seed: from 0.
        slices: axial slices, at least 4.
        image_size: height and width in pixels, at least 16.
        contrasts: of t1, t1c, t2, flair.
        rater: which annotator outlines the tumour, from 0.

    Raises:
        ValueError: a negative or fractional number, an unknown contrast, too small a grid.

    Example:
        >>> one = patient(0, slices=8, image_size=32, contrasts=("flair",))
        >>> one.images["flair"].shape, one.mask.dtype.name
        ((8, 32, 32), 'uint8')
    """
    grid = Grid(slices, image_size)
    for name, value in (("index", index), ("seed", seed), ("rater", rater)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError(f"{name} is {value!r}; use an integer of at least 0.")
    unknown = sorted(set(contrasts) - set(CONTRASTS))
    if unknown or isinstance(contrasts, str):
        raise ValueError(
            f"contrasts are {contrasts!r}; pass a tuple of some of {', '.join(CONTRASTS)}."
        )
    template = load_template()
    geometry = draw_geometry(grid, stream(seed, index, "geometry"))
    tumour = grow(template, stream(seed, index, "tumour"))
    anatomy, points = build_anatomy(template, geometry, tumour, stream(seed, index, "anatomy"))
    look = draw_look(tumour.high_grade, stream(seed, index, "look"))
    brightness = draw_intensities(anatomy, look, stream(seed, index, "contrast"))
    mask = annotate(anatomy, points, geometry, tumour, stream(seed, index, f"rater {rater}"))
    scanner = draw_scanner(stream(seed, index, "scanner"))

    def scan(values: np.ndarray) -> np.ndarray:
        volume = np.zeros(grid.shape, np.float32)
        volume.reshape(-1)[anatomy.pixels] = values
        return volume

    images = {
        name: acquire(
            scan(brightness[name]), geometry, scanner, stream(seed, index, f"scan {name}")
        )
        for name in contrasts
    }
    labels = 2 * mask
    labels[(scan(anatomy.density) > _CORE_DENSITY) & (mask > 0)] = 1
    labels[(scan(enhancement(anatomy, look)) > _ENHANCING) & (mask > 0)] = 3
    inside = anatomy.fractions["fluid"] + anatomy.fractions["grey"] + anatomy.fractions["white"]
    return Patient(
        index=index,
        seed=seed,
        high_grade=tumour.high_grade,
        images=images,
        mask=mask,
        labels=labels,
        brain=(scan(inside) > 0.5).astype(np.uint8),
        spacing=geometry.spacing,
        affine=geometry.affine(),
    )
