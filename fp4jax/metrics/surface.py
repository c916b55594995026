"""Distances between the surfaces of two masks: the Hausdorff distance and its 95th percentile.

The surface of a mask is the mask minus its erosion by one voxel along each axis; beyond the image
there is background, so a mask that touches the border has a surface there. With d(a, B) the
Euclidean distance of voxel a's centre from the nearest centre of B, in mm, and P the surface of
the prediction, T that of the target:

    HD_q = max(percentile_q {d(p, T) : p in P}, percentile_q {d(t, P) : t in T})

as in the BraTS evaluation and MONAI; q = 95 is HD95, q = 100 the Hausdorff distance. Percentiles
interpolate linearly. Distances are searched in a k-d tree of the surface's voxels: the same values
as from a distance transform of the image, several times faster.
"""

from collections.abc import Sequence

import numpy as np

from fp4jax.extras import Extra

#: What is reported where a prediction or target has no voxel; see :func:`hausdorff`.
EMPTY = ("penalize", "nan")


def hausdorff(
    predicted: np.ndarray,
    target: np.ndarray,
    spacing: Sequence[float],
    *,
    percentile: float = 95.0,
    pooled: bool = False,
    empty: str = "penalize",
) -> float:
    """A percentile of the distances between two masks' surfaces, mm.

    ==================  =================  ======================================================
    empty masks         ``"penalize"``     ``"nan"``
    ==================  =================  ======================================================
    both                0                  NaN
    one of them         the diagonal of    NaN
                        the image, mm
    ==================  =================  ======================================================

    The diagonal is the norm of shape times spacing, 373.13 mm for the 240 x 240 x 155 mm of BraTS,
    which is the value that its evaluation takes.

    Args:
        predicted: mask of rank 2 or 3, bool or 0 and 1.
        target: mask of the same shape.
        spacing: edges of a voxel, mm, one per axis.
        percentile: above 0, at most 100.
        pooled: take one percentile of the distances of both directions together, as some tools do,
            rather than the larger of each direction's.
        empty: what empty masks give, see the table.

    Raises:
        ValueError: if shapes, values or options do not fit.

    Example:
        >>> import numpy as np
        >>> a, b = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
        >>> a[2:5, 2:5], b[2:5, 4:7] = True, True
        >>> hausdorff(a, b, (1.0, 0.5))
        1.0
        >>> hausdorff(a, np.zeros_like(a), (4 / 3, 1.0))
        15.0
    """
    predicted, target = checked_pair(predicted, target)
    edges = checked_spacing(spacing, target.ndim)
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile is {percentile!r}; give one above 0, at most 100.")
    check_empty(empty)
    some = (predicted.any(), target.any())
    if not all(some):
        if empty == "nan":
            return float("nan")
        return float(np.linalg.norm(target.shape * edges)) if any(some) else 0.0
    distances = surface_distances(predicted, target, spacing)
    if pooled:
        return float(np.percentile(np.concatenate(distances), percentile))
    return max(float(np.percentile(d, percentile)) for d in distances)


def surface_distances(
    predicted: np.ndarray, target: np.ndarray, spacing: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Distances of the prediction's surface from the target's and the reverse, mm.

    One number per voxel of the surface, float64. The mean of all of them is the average symmetric
    surface distance.

    Raises:
        ValueError: if the shapes do not fit, values are not 0 and 1, or a mask is empty.

    Example:
        >>> import numpy as np
        >>> a, b = np.zeros((5, 5), bool), np.zeros((5, 5), bool)
        >>> a[2, 2], b[2, 3:] = True, True
        >>> [d.tolist() for d in surface_distances(a, b, (1.0, 3.0))]
        [[3.0], [3.0, 6.0]]
    """
    with Extra("study"):
        from scipy.spatial import KDTree

    predicted, target = checked_pair(predicted, target)
    edges = checked_spacing(spacing, target.ndim)
    for name, mask in (("prediction", predicted), ("target", target)):
        if not mask.any():
            raise ValueError(f"the {name} is empty and has no surface; test for this before.")
    # Relative to a box of both, which is much smaller than the image as a rule.
    box = _bounding_box(predicted | target)
    p, t = (np.argwhere(surface(mask[box])) * edges for mask in (predicted, target))
    return KDTree(t).query(p)[0], KDTree(p).query(t)[0]


def surface(mask: np.ndarray) -> np.ndarray:
    """The voxels of a mask of which a neighbour along an axis is not in it, bool.

    Example:
        >>> import numpy as np
        >>> surface(np.ones((3, 3), bool)).astype(int).tolist()
        [[1, 1, 1], [1, 0, 1], [1, 1, 1]]
    """
    with Extra("study"):
        from scipy.ndimage import binary_erosion

    mask = np.asarray(mask).astype(bool)
    return np.logical_and(mask, np.logical_not(binary_erosion(mask)))


def checked_pair(predicted: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two masks as bool; a ValueError if their shapes differ or values are not 0 and 1."""
    predicted, target = np.asarray(predicted), np.asarray(target)
    if predicted.shape != target.shape or target.ndim not in (2, 3) or not target.size:
        raise ValueError(
            f"a prediction of shape {predicted.shape} and a target of shape {target.shape}; give "
            "two masks of one shape, (x, y) or (x, y, z)."
        )
    for name, mask in (("prediction", predicted), ("target", target)):
        if mask.dtype != bool and (mask != mask.astype(bool)).any():
            raise ValueError(
                f"the {name} has values beside 0 and 1; compare label maps with an integer and "
                "probabilities with a threshold first."
            )
    return predicted.astype(bool), target.astype(bool)


def checked_spacing(spacing: Sequence[float], rank: int) -> np.ndarray:
    """(rank,) float64; a ValueError unless there is a positive number of mm per axis."""
    edges = np.asarray(spacing, np.float64)
    if edges.shape != (rank,) or not (np.isfinite(edges) & (edges > 0)).all():
        raise ValueError(
            f"spacing is {edges.tolist()} for {rank} axes; give the edge of a voxel along each, mm "
            "(1 for each if it is unknown: results are in voxels then)."
        )
    return edges


def check_empty(empty: str) -> None:
    """Raises a ValueError for an unknown option."""
    if empty not in EMPTY:
        raise ValueError(f"empty is {empty!r}; allowed: {', '.join(EMPTY)}.")


def _bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box that contains a mask which is not empty."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        used = np.flatnonzero(mask.any(others))
        box.append(slice(used[0], used[-1] + 1))
    return tuple(box)
