"""Template: the average brain from which every patient is warped, and a head around it.

The tissue maps are those of the ICBM152 2009a symmetric template (``icbm152/NOTICE.md``). They end
at the brain, so skull and scalp come from two signed distances, negative inside:

    d_brain   to the brain with its sulci closed
    d_head    to the skin: a smooth minimum of d_brain - 14 mm and of a face's ellipsoid
"""

import dataclasses
import functools
import hashlib
import importlib.resources
import io
import threading

import numpy as np

from fp4jax.data.phantom.components import components
from fp4jax.data.phantom.volume import Volume
from fp4jax.extras import Extra

#: Hash of the embedded file. Every patient depends on it: another file, other patients.
TEMPLATE_SHA256 = "c603c43d3cafe64cfea5981f85ceb66cdc02b464bf6fcdf94b966de71a316495"

#: Centre and radius of the right eye's globe, mm; the left one mirrors it.
EYE = (32.0, 62.0, -36.0)
EYE_RADIUS = 11.5

_SCALP_TO_BRAIN = 14.0
_SULCI = 9.0
_FACE_CENTRE, _FACE_AXES = (0.0, 22.0, -62.0), (70.0, 84.0, 62.0)
_BLEND = 10.0
_HEAD_SPACING = 2.0
_HEAD_LOW, _HEAD_HIGH = (-104.0, -146.0, -92.0), (104.0, 116.0, 114.0)

_LOCK = threading.Lock()


@dataclasses.dataclass(frozen=True, eq=False)
class Template:
    """Maps in MNI millimetres.

    Attributes:
        tissue: uint8, 1.5 mm: grey and white matter times 255, T1 residual (128 = none, WM = 100
            units), nearness of the ventricles times 255.
        distance: float32, 2 mm: d_brain and d_head, mm.
        matter: float32, 3 mm: grey and white matter, for the tumour's growth.
    """

    tissue: Volume
    distance: Volume
    matter: Volume


def load_template() -> Template:
    """The template, computed once in a process (about two seconds)."""
    with _LOCK:
        return _load()


def read_template() -> dict[str, np.ndarray]:
    """The embedded arrays t1, gm, wm (uint8) and affine (float32).

    Raises:
        ValueError: the file is not the one that the package was made with.

    Example:
        >>> read_template()["gm"].shape
        (131, 155, 126)
    """
    file = importlib.resources.files("fp4jax.data.phantom") / "icbm152/icbm152_09a_sym_1p5mm.npz"
    data = file.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != TEMPLATE_SHA256:
        raise ValueError(
            f"The phantom's template {file} has the sha256 {found}, not {TEMPLATE_SHA256}; "
            "the file is damaged or was replaced. Install fp4jax again."
        )
    with np.load(io.BytesIO(data)) as arrays:
        return {name: arrays[name] for name in arrays.files}


@functools.cache
def _load() -> Template:
    arrays = read_template()
    t1, grey, white = (arrays[k].astype(np.float32) / 255 for k in ("t1", "gm", "wm"))
    spacing = float(arrays["affine"][0, 0])
    origin = _point(arrays["affine"][:3, 3])
    brain = _brain(t1, grey, white)
    distance = _distances(Volume(brain[..., None], origin, spacing))
    fluid = np.clip(1 - grey - white, 0, 1) * brain
    tissue = np.stack(
        [
            arrays["gm"],
            arrays["wm"],
            _residual(t1, grey, white, fluid, brain),
            _ventricles(fluid, distance, Volume(brain[..., None], origin, spacing)),
        ],
        -1,
    )
    # Means of 2x2x2 voxels; their first centre lies half a voxel inside.
    halved = np.stack([_halve(grey), _halve(white)], -1)
    centre = _point(np.asarray(origin) + spacing / 2)
    return Template(
        tissue=Volume(tissue, origin, spacing),
        distance=distance,
        matter=Volume(halved, centre, 2 * spacing),
    )


def _point(values) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in values)
    return x, y, z


def _brain(t1: np.ndarray, grey: np.ndarray, white: np.ndarray) -> np.ndarray:
    """The largest component of all that is tissue, its holes filled."""
    with Extra("study"):
        from scipy import ndimage

    labels, sizes = components((grey + white > 100 / 255) | (t1 > 60 / 255))
    return np.asarray(ndimage.binary_fill_holes(labels == sizes.argmax()), np.float32)


def _distances(brain: Volume) -> Volume:
    """d_brain and d_head on a grid that holds the whole head."""
    with Extra("study"):
        from scipy import ndimage

    edges = zip(_HEAD_LOW, _HEAD_HIGH, strict=True)
    shape = tuple(round((high - low) / _HEAD_SPACING) + 1 for low, high in edges)
    grid = Volume(np.empty((*shape, 0), np.float32), _HEAD_LOW, _HEAD_SPACING)
    x, y, z = grid.axes()
    points = np.stack(np.broadcast_arrays(x, y, z)).reshape(3, -1)
    inside = (brain.sample(points)[0] * brain.inside(points)).reshape(shape) > 0.5

    def outwards(mask: np.ndarray) -> np.ndarray:
        distance = ndimage.distance_transform_edt(~mask, sampling=_HEAD_SPACING)
        return np.asarray(distance, np.float32)

    # Closing: grow by the width of a sulcus, then keep what is that far from the outside.
    grown = outwards(inside) < _SULCI
    closed = (outwards(~grown) > _SULCI) | inside
    d_brain = outwards(closed) - outwards(~closed)
    scaled = [
        (axis - centre) / semi
        for axis, centre, semi in zip((x, y, z), _FACE_CENTRE, _FACE_AXES, strict=True)
    ]
    radius = np.sqrt(scaled[0] ** 2 + scaled[1] ** 2 + scaled[2] ** 2)
    face = (radius - 1) * min(_FACE_AXES)
    d_head = _smooth_minimum(d_brain - _SCALP_TO_BRAIN, face, _BLEND)
    d_head = ndimage.gaussian_filter(d_head, 1.0)
    return Volume(np.stack([d_brain, d_head], -1).astype(np.float32), _HEAD_LOW, _HEAD_SPACING)


def _smooth_minimum(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    """The minimum, rounded where |a - b| < width."""
    h = np.clip(0.5 + 0.5 * (b - a) / width, 0, 1)
    return b * (1 - h) + a * h - width * h * (1 - h)


def _residual(t1, grey, white, fluid, brain) -> np.ndarray:
    """What grey, white and fluid do not explain of the T1 image: deep grey nuclei, for one."""
    inside = brain > 0
    tissues = np.stack([grey[inside], white[inside], fluid[inside]], -1).astype(np.float64)
    values = t1[inside].astype(np.float64)
    levels = np.linalg.solve(tissues.T @ tissues, tissues.T @ values)
    residual = np.zeros_like(t1)
    residual[inside] = (values - tissues @ levels) / levels[1]
    return np.clip(np.round(128 + 100 * residual), 0, 255).astype(np.uint8)


def _ventricles(fluid: np.ndarray, distance: Volume, grid: Volume) -> np.ndarray:
    """Blurred fluid deep inside the brain; bright next to the ventricles."""
    with Extra("study"):
        from scipy import ndimage

    points = np.stack(np.broadcast_arrays(*grid.axes())).reshape(3, -1)
    depth = distance.sample(points)[0].reshape(fluid.shape)
    deep = fluid * (depth < -22)
    near = ndimage.gaussian_filter(deep, 3.0 / grid.spacing)
    return np.clip(np.round(255 * near), 0, 255).astype(np.uint8)


def _halve(values: np.ndarray) -> np.ndarray:
    x, y, z = (n // 2 for n in values.shape)
    cropped = values[: 2 * x, : 2 * y, : 2 * z]
    return cropped.reshape(x, 2, y, 2, z, 2).mean((1, 3, 5), dtype=np.float32)
