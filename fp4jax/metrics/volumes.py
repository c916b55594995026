"""Metrics of segmented cases, per region: Dice, sensitivity, precision, HD95, volume.

With P and T the voxels of prediction and target:

    Dice = 2 |P and T| / (|P| + |T|)
    sensitivity = |P and T| / |T|
    precision = |P and T| / |P|

HD95 is :func:`fp4jax.metrics.hausdorff`. Where masks are empty, with ``empty="penalize"``:

=================  ====  ===========  =========  =============================
empty              Dice  sensitivity  precision  HD95
=================  ====  ===========  =========  =============================
both               1     1            1          0
one of them        0     0            0          the diagonal of the image, mm
=================  ====  ===========  =========  =============================

so a false alarm where there is nothing costs as much as a lesion that is missed. This is what
BraTS scores. With ``empty="nan"`` whatever is 0 / 0 is NaN, and HD95 with an empty mask too; means
leave NaN out, so that they are those of the cases in which the value is defined.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from fp4jax.metrics.overlap import mean
from fp4jax.metrics.surface import check_empty, checked_pair, checked_spacing, hausdorff

#: The key of what is averaged over regions; no region may have this name.
MEAN = "mean"


def mask_report(
    predicted: np.ndarray,
    target: np.ndarray,
    spacing: Sequence[float],
    *,
    empty: str = "penalize",
    voxel: float | None = None,
) -> dict[str, float]:
    """The metrics of one mask, by name; see the top of this file.

    ======================  =====================================================================
    dice sensitivity        shares, 0 to 1
      precision
    hd95_mm                 95 % Hausdorff distance, mm
    volume_ml               of the prediction and of the target, ml (1000 mm^3). Of images of
      target_volume_ml      rank 2 ``area_mm2`` and ``target_area_mm2`` in their place
    ======================  =====================================================================

    Args:
        predicted: mask (x, y, z) or (x, y), bool or 0 and 1.
        target: mask of the same shape.
        spacing: edges of a voxel, mm, one per axis.
        empty: "penalize" or "nan".
        voxel: volume of a voxel, mm^3, where axes are not at right angles; default: the product of
            its edges.

    Raises:
        ValueError: if shapes, values or options do not fit.

    Example:
        >>> import numpy as np
        >>> predicted, target = np.zeros((2, 8, 8, 8), bool)
        >>> predicted[2:4, 2:6, 2:6], target[2:6, 2:6, 2:6] = True, True
        >>> report = mask_report(predicted, target, (1.0, 1.0, 1.0))
        >>> print(f"{report['dice']:.3f} {report['sensitivity']:.1f} {report['hd95_mm']:.1f}")
        0.667 0.5 2.0
    """
    predicted, target = checked_pair(predicted, target)
    product = float(np.prod(checked_spacing(spacing, target.ndim)))
    voxel = product if voxel is None else voxel
    check_empty(empty)
    both, p, t = (int(np.count_nonzero(m)) for m in (predicted & target, predicted, target))
    # The value of 0 / 0.
    undefined = float("nan") if empty == "nan" else float(p == t)

    def share(part: int, whole: int) -> float:
        return part / whole if whole else undefined

    size, unit = ("volume_ml", 1e-3) if target.ndim == 3 else ("area_mm2", 1.0)
    return {
        "dice": share(2 * both, p + t),
        "sensitivity": share(both, t),
        "precision": share(both, p),
        "hd95_mm": hausdorff(predicted, target, spacing, empty=empty),
        size: p * voxel * unit,
        f"target_{size}": t * voxel * unit,
    }


def region_report(
    predicted: np.ndarray,
    target: np.ndarray,
    regions: Sequence[str] | Mapping[str, int | Sequence[int]],
    spacing: Sequence[float],
    *,
    empty: str = "penalize",
    voxel: float | None = None,
) -> dict[str, dict[str, float]]:
    """:func:`mask_report` of each region of a case, and under ``"mean"`` their mean.

    Args:
        predicted: masks (*space, k), bool or 0 and 1, or a map of integer labels (*space).
        target: of the same shape.
        regions: names of the k masks, or for label maps the labels that make up each region.
        spacing: edges of a voxel, mm, one per axis of space.
        empty: "penalize" or "nan".
        voxel: volume of a voxel, mm^3, where axes are not at right angles; default: the product of
            its edges.

    Raises:
        ValueError: if shapes, values or options do not fit.

    Example:
        >>> import numpy as np
        >>> target = np.zeros((8, 8, 8), np.uint8)
        >>> target[2:6, 2:6, 2:6], target[3:5, 3:5, 3:5] = 2, 4
        >>> brats = {"whole tumour": (1, 2, 4), "tumour core": (1, 4), "enhancing": 4}
        >>> report = region_report(np.minimum(target, 2), target, brats, (1.0, 1.0, 1.0))
        >>> report["whole tumour"]["dice"], report["enhancing"]["dice"]
        (1.0, 0.0)
        >>> print(f"{report['mean']['dice']:.4f} {report['enhancing']['hd95_mm']:.2f}")
        0.3333 13.86
    """
    if isinstance(regions, Mapping):
        predicted, target = (region_masks(labels, regions) for labels in (predicted, target))
    predicted, target, names = np.asarray(predicted), np.asarray(target), tuple(regions)
    if predicted.shape != target.shape or target.shape[-1:] != (len(names),):
        raise ValueError(
            f"a prediction of shape {predicted.shape} and a target of shape {target.shape} for the "
            f"{len(names)} regions {', '.join(names)}; give masks (*space, {len(names)}), or label "
            "maps and regions as a dict of name and labels."
        )
    _check_names(names)
    report = {
        name: mask_report(predicted[..., i], target[..., i], spacing, empty=empty, voxel=voxel)
        for i, name in enumerate(names)
    }
    return report | {MEAN: _mean(report.values())}


def mean_report(
    reports: Sequence[Mapping[str, Mapping[str, float]]],
) -> dict[str, dict[str, float]]:
    """The mean over cases of each region's metrics, and under ``"mean"`` the mean over regions.

    NaN is left out: a region's mean is over the cases in which the value is defined, and all
    regions weigh the same in ``"mean"`` (macro mean).

    Args:
        reports: of :func:`region_report`, one per case, all of the same regions.

    Raises:
        ValueError: if there is no report or their regions differ.

    Example:
        >>> nan = float("nan")
        >>> cases = [{"core": {"dice": 0.5}, "edema": {"dice": nan}},
        ...          {"core": {"dice": 1.0}, "edema": {"dice": 0.25}}]
        >>> mean_report(cases)
        {'core': {'dice': 0.75}, 'edema': {'dice': 0.25}, 'mean': {'dice': 0.5}}
    """
    if not reports:
        raise ValueError("there are no reports; give one per case.")
    names = [name for name in reports[0] if name != MEAN]
    for report in reports:
        if [name for name in report if name != MEAN] != names:
            raise ValueError(
                f"reports of the regions {', '.join(names)} and of {', '.join(report)}; average "
                "reports of the same regions."
            )
    means = {name: _mean([report[name] for report in reports]) for name in names}
    return means | {MEAN: _mean(means.values())}


def region_masks(labels: np.ndarray, regions: Mapping[str, int | Sequence[int]]) -> np.ndarray:
    """Masks (*space, k), bool, of regions that are unions of labels, from a label map (*space).

    Raises:
        ValueError: if the labels are not integers.

    Example:
        >>> import numpy as np
        >>> region_masks(np.array([[0, 1, 4]]), {"core": (1, 4), "enhancing": 4}).tolist()
        [[[False, False], [True, False], [True, True]]]
    """
    labels = np.asarray(labels)
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"a label map of {labels.dtype}; give integers. For masks name the regions in a tuple."
        )
    _check_names(tuple(regions))
    return np.stack([np.isin(labels, np.ravel(members)) for members in regions.values()], -1)


def _check_names(names: tuple[str, ...]) -> None:
    if not names or MEAN in names or len(set(names)) < len(names):
        raise ValueError(
            f"the regions are {names}; name one or more, each once, and none {MEAN!r}."
        )


def _mean(reports: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Means by name, NaN left out; NaN if nothing is left."""
    rows = list(reports)
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return {name: mean(values[~np.isnan(values)]) for name, values in columns.items()}
