"""Fingerprint of a cohort: what is in it, for reports and to find out which file differs.

A fingerprint is a dictionary that JSON can hold. Statistics come from histograms of the grey
levels, so they are exact and need no copy of the images.
"""

import hashlib
import os
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from fp4jax.data import lgg
from fp4jax.data.cohort import Cohort

_PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
_CHUNK = 64
_SHOWN = 10


def fingerprint(cohort: Cohort) -> dict[str, Any]:
    """Counts, intensity statistics and digests of a cohort.

    Keys: ``name``; ``channels``; ``shape`` (h, w, c); ``patients``, ``scans``, ``slices``,
    ``positive_slices`` (counts); ``several_scans`` (the scans of each patient that has several);
    ``positive_slice_share``, ``positive_pixel_share``;
    ``slices_per_patient``, ``positive_slices_per_patient`` (min, q25, median, q75, max);
    ``intensity`` (per channel mean, sd, percentiles in grey levels); ``sha256`` of all arrays;
    ``crc32`` (patient -> slice number -> 8 hexadecimal digits of image and mask).

    Example:
        >>> import numpy as np
        >>> cohort = Cohort(np.zeros((1, 2, 2, 1), np.uint8), np.ones((1, 2, 2), np.uint8),
        ...                 np.array(["p"]), np.array([1], np.int32), "tiny", ("flair",))
        >>> fingerprint(cohort)["positive_pixel_share"]
        1.0
    """
    _, which = np.unique(cohort.patient_ids, return_inverse=True)
    n_slices, n_positive = np.bincount(which), np.bincount(which, cohort.positive)
    histograms = np.zeros((len(cohort.channels), 256), np.int64)
    positive_pixels = 0
    sha256 = hashlib.sha256(repr((cohort.images.shape, cohort.channels)).encode())
    crc32: dict[str, dict[str, str]] = {patient: {} for patient in cohort.patients}
    for i, image, mask in _slices(cohort):
        for c in range(len(cohort.channels)):
            histograms[c] += np.bincount(image[..., c].reshape(-1), minlength=256)
        positive_pixels += int(np.count_nonzero(mask))
        patient, number = str(cohort.patient_ids[i]), int(cohort.slice_index[i])
        sha256.update(f"{patient} {number}".encode())
        pixels = image.tobytes() + mask.tobytes()
        sha256.update(pixels)
        crc32[patient][str(number)] = f"{zlib.crc32(pixels):08x}"
    return {
        "name": cohort.name,
        "channels": list(cohort.channels),
        "shape": list(cohort.images.shape[1:]),
        "patients": len(cohort.patients),
        "scans": sum(map(len, cohort.scans.values())),
        "several_scans": {p: list(ids) for p, ids in cohort.scans.items() if len(ids) > 1},
        "slices": len(cohort),
        "positive_slices": int(cohort.positive.sum()),
        "positive_slice_share": _share(int(cohort.positive.sum()), len(cohort)),
        "positive_pixel_share": _share(positive_pixels, cohort.masks.size),
        "slices_per_patient": _quantiles(n_slices),
        "positive_slices_per_patient": _quantiles(n_positive),
        "intensity": {
            name: _statistics(histogram)
            for name, histogram in zip(cohort.channels, histograms, strict=True)
        },
        "sha256": sha256.hexdigest(),
        "crc32": crc32,
    }


def differences(cohort: Cohort | str | os.PathLike, expected: dict[str, Any]) -> list[str]:
    """What differs from an expected fingerprint, or from the part of one, in words.

    Args:
        cohort: a cohort, or the root folder of the LGG files.
        expected: :func:`fingerprint`'s result, or some of its keys (``LGG_EXPECTED``).

    Returns:
        One line per difference, patients and slices first; empty if there is none.

    Raises:
        ValueError: a key that fingerprints do not have, or LGG files that cannot be read.
    """
    if not isinstance(cohort, Cohort):
        reverse = expected.get("channels") == list(lgg.CHANNELS["ref_bgr"])
        cohort = lgg.load(cohort, channel_order="ref_bgr" if reverse else "rgb")
    found = fingerprint(cohort)
    unknown = sorted(set(expected) - set(found))
    if unknown:
        raise ValueError(f"Unknown keys {unknown} in the fingerprint; known are {sorted(found)}.")
    lines = _slice_differences(found["crc32"], expected.get("crc32"))
    for key, value in expected.items():
        if key != "crc32" and found[key] != value:
            lines.append(f"{key}: {found[key]}, expected {value}")
    return lines


def verify(cohort: Cohort | str | os.PathLike, expected: dict[str, Any]) -> None:
    """Raises if a cohort is not the one that was expected; arguments of :func:`differences`.

    Raises:
        ValueError: with what differs, which patients and slices, and what to do.
    """
    lines = differences(cohort, expected)
    if lines:
        more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
        listing = "\n  ".join(lines[:_SHOWN] + more)
        raise ValueError(
            f"This is not the expected data set; {len(lines)} differences:\n  {listing}\n"
            "Unpack or generate the data again and replace the files named; if the change is "
            "intended, store the new fingerprint."
        )


def _slices(cohort: Cohort) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    for start in range(0, len(cohort), _CHUNK):
        images = np.ascontiguousarray(cohort.images[start : start + _CHUNK])
        masks = np.ascontiguousarray(cohort.masks[start : start + _CHUNK])
        for j, (image, mask) in enumerate(zip(images, masks, strict=True)):
            yield start + j, image, mask


def _slice_differences(found: dict[str, dict], expected: dict[str, dict] | None) -> list[str]:
    if expected is None:
        return []
    lines = []
    for patient in sorted(set(found) | set(expected)):
        if patient not in found:
            lines.append(f"{patient}: the patient is missing")
        elif patient not in expected:
            lines.append(f"{patient}: this patient is not expected")
        else:
            have, want = found[patient], expected[patient]
            for number in sorted(set(have) | set(want), key=int):
                if number not in have:
                    lines.append(f"{patient}_{number}: the slice is missing")
                elif number not in want:
                    lines.append(f"{patient}_{number}: this slice is not expected")
                elif have[number] != want[number]:
                    lines.append(f"{patient}_{number}: image or mask differs")
    return lines


def _statistics(histogram: np.ndarray) -> dict[str, Any]:
    levels, total = np.arange(256), int(histogram.sum())
    if not total:
        return {"mean": None, "sd": None, "percentiles": None}
    mean = float(histogram @ levels) / total
    variance = float(histogram @ (levels - mean) ** 2) / total
    below = np.cumsum(histogram)
    percentiles = {str(p): int(np.searchsorted(below, p / 100 * total)) for p in _PERCENTILES}
    return {"mean": mean, "sd": variance**0.5, "percentiles": percentiles}


def _quantiles(counts: np.ndarray) -> list[float]:
    return np.quantile(counts, (0, 0.25, 0.5, 0.75, 1)).tolist() if counts.size else []


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
