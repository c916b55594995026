"""Label values of each layout, and regions made of them.

Networks learn regions (whole tumour, tumour core, enhancing tumour), files hold label values, and
the values differ from layout to layout: enhancing tumour is 4 in BraTS 2020, 3 in BraTS 2023, and
in BraTS 2024 a 4 is the resection cavity. Only these tables know; nothing else compares labels.

Sources: B. H. Menze et al., "The Multimodal Brain Tumor Image Segmentation Benchmark (BRATS)", IEEE
TMI 34 (2015); U. Baid et al., arXiv 2107.02314 (2021); A. F. Kazerooni et al. and M. C. de Verdier
et al., arXiv 2405.18368 (2024); M. Antonelli et al., "The Medical Segmentation Decathlon", Nature
Communications 13 (2022).
"""

import os
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from fp4jax.core.typing import Integer, Shaped, UInt8

Table = Mapping[str, frozenset[int]]

REGIONS = ("whole_tumour", "tumour_core", "enhancing")

#: Layout -> region -> the label values that it consists of.
LABELS: dict[str, Table] = {
    # 1 necrosis, 2 oedema, 3 non-enhancing tumour, 4 enhancing tumour
    "brats2013": {
        "whole_tumour": frozenset({1, 2, 3, 4}),
        "tumour_core": frozenset({1, 3, 4}),
        "enhancing": frozenset({4}),
    },
    # 1 necrosis and non-enhancing tumour, 2 oedema, 4 enhancing tumour
    "brats2020": {
        "whole_tumour": frozenset({1, 2, 4}),
        "tumour_core": frozenset({1, 4}),
        "enhancing": frozenset({4}),
    },
    "brats2021": {
        "whole_tumour": frozenset({1, 2, 4}),
        "tumour_core": frozenset({1, 4}),
        "enhancing": frozenset({4}),
    },
    # 1 necrosis and non-enhancing tumour, 2 oedema, 3 enhancing tumour
    "brats2023": {
        "whole_tumour": frozenset({1, 2, 3}),
        "tumour_core": frozenset({1, 3}),
        "enhancing": frozenset({3}),
    },
    # as 2023, and 4 resection cavity, which is no tumour
    "brats2024": {
        "whole_tumour": frozenset({1, 2, 3}),
        "tumour_core": frozenset({1, 3}),
        "enhancing": frozenset({3}),
        "resection_cavity": frozenset({4}),
    },
    # Task01_BrainTumour: 1 oedema, 2 non-enhancing tumour, 3 enhancing tumour
    "msd": {
        "whole_tumour": frozenset({1, 2, 3}),
        "tumour_core": frozenset({2, 3}),
        "enhancing": frozenset({3}),
    },
}

_MOST_REGIONS = 8  # one bit each
_MOST_LABEL = 2**15 - 1
_SHOWN = 8


def to_regions(
    labels: Shaped[np.ndarray, "x y z"],
    layout: str | Mapping[str, Collection[int]],
    *,
    regions: Sequence[str] = REGIONS,
    path: str | os.PathLike | None = None,
) -> UInt8[np.ndarray, "x y z k"]:
    """Region masks of a label map: 1 where the label is one of the region's values.

    Args:
        labels: label values, as integers or as floats that are integers within 1e-3.
        layout: a key of ``LABELS``, or a table region -> label values.
        regions: the k regions wanted, in this order.
        path: the file, for messages.

    Raises:
        ValueError: label values that the layout does not have, labels that are no integers, an
            unknown layout or region, more than 8 regions.

    Example:
        >>> import numpy as np
        >>> labels = np.array([0, 1, 2, 4], np.uint8).reshape(1, 1, 4)
        >>> to_regions(labels, "brats2020")[0, 0].tolist()
        [[0, 0, 0], [1, 1, 0], [1, 0, 0], [1, 1, 1]]
    """
    bits = region_bits(labels, layout, regions=regions, path=path)
    return unpack_bits(bits, len(regions))


def to_labels(
    regions: Shaped[np.ndarray, "x y z k"],
    layout: str | Mapping[str, Collection[int]],
    *,
    names: Sequence[str] = REGIONS,
) -> UInt8[np.ndarray, "x y z"] | Integer[np.ndarray, "x y z"]:
    """The label map of region masks, in the layout's label values.

    A voxel gets the label of the smallest region that it is in, so that masks which contradict
    each other (enhancing tumour outside the whole tumour) have a defined result. The label of a
    region is the value that none of the smaller regions within it has; the lowest one, where there
    are several (BraTS 2013: tumour core that does not enhance becomes 1, as later years have it).

    Args:
        regions: k masks, boolean or 0/1; threshold probabilities first.
        layout: a key of ``LABELS``, or a table region -> label values.
        names: the regions that the k masks are, in this order.

    Returns:
        uint8 label values, int16 where a value is above 255.

    Raises:
        ValueError: other values than 0 and 1, an unknown layout or region, k other than the number
            of names.

    Example:
        >>> import numpy as np
        >>> masks = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]]).reshape(1, 1, 4, 3)
        >>> to_labels(masks, "brats2023").ravel().tolist(), to_labels(masks, "msd").ravel().tolist()
        ([0, 2, 1, 3], [0, 1, 2, 3])
    """
    table = table_of(layout)
    sets = check_regions(names, table)
    if regions.shape[-1] != len(names):
        raise ValueError(
            f"{regions.shape[-1]} masks for {len(names)} regions {tuple(names)}; give one mask for "
            "each region along the last axis, or pass names."
        )
    masks = np.asarray(regions) == 1
    if not (masks | (np.asarray(regions) == 0)).all():
        raise ValueError(
            "Region masks have values other than 0 and 1; threshold probabilities first, for "
            "example (probabilities > 0.5)."
        )
    values = [_own_value(values, sets) for values in sets]
    largest_first = sorted(range(len(sets)), key=lambda r: -len(sets[r]))
    labels = np.zeros(masks.shape[:3], np.uint8 if max(values) < 256 else np.int16)
    for r in largest_first:
        labels[masks[..., r]] = values[r]
    return labels


def region_bits(
    labels: Shaped[np.ndarray, "x y z"],
    layout: str | Mapping[str, Collection[int]],
    *,
    regions: Sequence[str] = REGIONS,
    path: str | os.PathLike | None = None,
    step: float = 0.0,
) -> UInt8[np.ndarray, "x y z"]:
    """As :func:`to_regions`, with region r in bit r of one byte per voxel.

    ``step`` is the distance of the values that the file could hold, where integers are scaled in
    it: labels are then known to half of it (float label maps that nibabel wrote as uint8).
    """
    table = table_of(layout)
    sets = check_regions(regions, table)
    allowed = sorted({0}.union(*table.values()))
    name = "The label map" if path is None else str(path)
    values = _integers(labels, name, step)
    lookup = np.zeros(max(allowed) + 1, np.uint8)
    for r, members in enumerate(sets):
        lookup[sorted(members)] |= np.uint8(1 << r)
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    counts = np.bincount(values.ravel(), minlength=high + 1) if low >= 0 else None
    found = np.unique(values) if counts is None else np.flatnonzero(counts)
    unknown = sorted(set(found.tolist()) - set(allowed))
    if unknown:
        shown = ", ".join(map(str, unknown[:_SHOWN])) + ", ..." * (len(unknown) > _SHOWN)
        what = f"layout {layout!r}" if isinstance(layout, str) else "its layout"
        raise ValueError(
            f"{name} has label values {shown}; {what} has {', '.join(map(str, allowed))} only. "
            f"{_layouts_with(layout, found.tolist())}"
        )
    return lookup[values]


def unpack_bits(bits: UInt8[np.ndarray, "*space"], k: int) -> UInt8[np.ndarray, "*space k"]:
    """Bits 0 to k - 1 as 0/1 masks along a new last axis."""
    return (bits[..., None] >> np.arange(k, dtype=np.uint8)) & np.uint8(1)


def table_of(layout: str | Mapping[str, Collection[int]]) -> Table:
    """The table region -> label values of a layout, checked.

    Raises:
        ValueError: an unknown layout; a region without values; values that are no labels.
    """
    if isinstance(layout, str):
        if layout not in LABELS:
            raise ValueError(
                f"No label table for layout {layout!r}; there are {', '.join(LABELS)}. For other "
                "data give a table such as {'lesion': {1}}."
            )
        return LABELS[layout]
    table = {}
    for region, values in layout.items():
        members = {values} if isinstance(values, int) else set(values)
        good = all(isinstance(value, (int, np.integer)) for value in members)
        if not members or not good or min(members) < 1 or max(members) > _MOST_LABEL:
            raise ValueError(
                f"Region {region!r} has label values {values!r}; give integers from 1 to "
                f"{_MOST_LABEL} (0 is background), such as {{'lesion': {{1}}}}."
            )
        table[str(region)] = frozenset(int(value) for value in members)
    if not table:
        raise ValueError("The label table is empty; name a region, such as {'lesion': {1}}.")
    return table


def given(labels: str | Mapping[str, Collection[int]] | None) -> Table | None:
    """The table that a user gave: a layout's name, a table, or one written as ``a=1,4 b=1,2,4``.

    Raises:
        ValueError: none of these.

    Example:
        >>> given("core=1,4 whole=1,2,4") == {"core": {1, 4}, "whole": {1, 2, 4}}
        True
    """
    if labels is None:
        return None
    if isinstance(labels, Mapping):
        if not labels:
            raise ValueError("labels is empty; name a region, such as {'lesion': {1}}.")
        return table_of(labels)
    if "=" not in labels:
        return table_of(labels)
    try:
        pairs = [part.split("=") for part in labels.split()]
        return table_of({name: {int(v) for v in values.split(",")} for name, values in pairs})
    except ValueError as error:
        raise ValueError(
            f"labels are {labels!r}; give a layout's name ({', '.join(LABELS)}), or regions with "
            "their label values, such as 'core=1,4 whole=1,2,4'."
        ) from error


def check_regions(regions: Sequence[str], table: Table) -> list[frozenset[int]]:
    """The label values of each region.

    Raises:
        ValueError: a region that the table lacks, a region twice, none or more than 8.
    """
    names = tuple(regions)
    unknown = [name for name in names if name not in table]
    if unknown or isinstance(regions, str):
        raise ValueError(
            f"regions are {regions!r}; a tuple of names among {', '.join(table)} is needed."
        )
    if len(set(names)) != len(names) or not 1 <= len(names) <= _MOST_REGIONS:
        raise ValueError(f"regions are {names}; give 1 to {_MOST_REGIONS} regions, each once.")
    return [table[name] for name in names]


def _own_value(values: frozenset[int], sets: Sequence[frozenset[int]]) -> int:
    smaller = frozenset().union(*(other for other in sets if other < values))
    return min((values - smaller) or values)


def _integers(labels: np.ndarray, name: str, step: float = 0.0) -> np.ndarray:
    """The labels in an integer type that indexes tables."""
    if labels.dtype.kind == "b":
        return labels.astype(np.uint8)
    if labels.size and not (labels.min() >= -_MOST_LABEL and labels.max() <= _MOST_LABEL):
        raise ValueError(
            f"{name} has label values from {labels.min()} to {labels.max()}; labels are integers "
            f"of at most {_MOST_LABEL}. Is this an image rather than a label map?"
        )
    if labels.dtype.kind in "ui":
        return labels.astype(np.int16) if labels.dtype.itemsize > 2 else labels
    values = np.rint(labels).astype(np.int16)
    fractions = np.abs(labels - values) > max(1e-3, min(step, 0.5) / 2)
    if fractions.any():
        shown = ", ".join(f"{value:g}" for value in np.unique(labels[fractions])[:_SHOWN])
        raise ValueError(
            f"{name} has label values that are no integers, such as {shown}. Is it a probability "
            "map, or was it resampled with interpolation? Use the original label map, or resample "
            "it by nearest neighbour."
        )
    return values


def _with(layout: str | Mapping[str, Collection[int]], values: Sequence[int]) -> str:
    """A table for these values, with those that its one region has already."""
    table = {} if isinstance(layout, str) else table_of(layout)
    names = [name for name in table if name != "foreground"]
    name = names[0] if len(names) == 1 else "lesion"
    members = {value for value in values if value > 0} | table.get(name, frozenset())
    return f"{name}={','.join(map(str, sorted(members)))}"


def _layouts_with(layout: str | Mapping[str, Collection[int]], values: Sequence[int]) -> str:
    fitting = [name for name, table in LABELS.items() if set(values) <= {0}.union(*table.values())]
    example = fitting[-1] if fitting else _with(layout, values)
    own = f"give --labels '{example}'"
    if fitting:
        return (
            f"Layouts with all of the file's labels: {', '.join(fitting)}. If one is right, {own}."
        )
    return f"Correct the file, or say what its values mean: {own}."
