"""Sliding-window inference: logits of a whole image from overlapping windows.

Windows stand ``int(window * (1 - overlap))`` voxels apart from the first voxel on, the last ones
moved back so that they end with the image: where MONAI places them. An image smaller than the
window is padded with zeros on both sides, the odd voxel behind, and the result cropped. With z_i
the logits of the windows that cover a voxel and w_i their weights there

    logits = sum_i w_i z_i / sum_i w_i

in float32, in the order of the windows. A window's weight is 1, or a Gaussian of the distance from
its centre with a standard deviation of ``sigma_scale`` of its edge along each axis, at least 1e-3.
"""

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from fp4jax.core.typing import Array
from fp4jax.inference.alone import Predict

WEIGHTINGS = ("gaussian", "constant")
_LEAST = 1e-3


def sliding_window(
    predict: Predict,
    image: np.ndarray | Array,
    window: Sequence[int],
    *,
    overlap: float | Sequence[float] = 0.5,
    weighting: str = "gaussian",
    sigma_scale: float = 0.125,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """The logits of an image, larger or smaller than the window, from its windows.

    All windows have one shape, so that a network is compiled once for images of all sizes; the
    next windows are under way while the host adds up the last. If one window covers the image, the
    result is ``predict``'s, bit for bit.

    Args:
        predict: windows (*window, c), one after the other -> the logits (*window, k) of each. With
            ``functools.partial(alone.each, variables)`` of an :class:`~fp4jax.inference.Alone`
            windows do not depend on each other.
        image: (x, y, z, c) or (h, w, c), with channels last, as ``predict`` takes it.
        window: edges in voxels.
        overlap: share of a window that its neighbour covers too, 0 to below 1; one for all axes
            or one for each.
        weighting: "gaussian" or "constant".
        sigma_scale: standard deviation of the Gaussian, of the window's edge.
        progress: is called with the windows done and the number of all, after each window.

    Returns:
        float32 logits (*space, k) on the host.

    Raises:
        ValueError: if an argument is out of range, or the shapes do not fit.

    Example:
        >>> import functools, numpy as np
        >>> from fp4jax.inference import Alone
        >>> predict = functools.partial(Alone(lambda factor, x: factor * x[..., :1]).each, 2.0)
        >>> image = np.arange(7 * 5 * 3 * 2, dtype=np.float32).reshape(7, 5, 3, 2)
        >>> logits = sliding_window(predict, image, (4, 4, 4))
        >>> logits.shape, bool(np.allclose(logits, 2 * image[..., :1]))
        ((7, 5, 3, 1), True)
    """
    image, window = np.asarray(image), tuple(window)
    shares = tuple(overlap) if isinstance(overlap, Sequence) else (float(overlap),) * len(window)
    _check(image, window, shares)
    importance = window_weights(window, weighting, sigma_scale)
    space = image.shape[:-1]
    missing = [max(w - s, 0) for s, w in zip(space, window, strict=True)]
    padding = [(m // 2, m - m // 2) for m in missing]
    padded = np.pad(image, [*padding, (0, 0)])
    cropped = tuple(
        slice(before, before + s) for (before, _), s in zip(padding, space, strict=True)
    )
    places = _places(padded.shape[:-1], window, shares)
    results = predict(padded[place] for place in places)
    total = weight = np.zeros(0, np.float32)
    for done, (place, result) in enumerate(zip(places, results, strict=True), start=1):
        logits = _checked(result, window)
        if len(places) == 1:
            # Not multiplied and divided by its weight: these are predict's own bits.
            total, weight = logits, np.ones((), np.float32)
        else:
            if done == 1:
                total = np.zeros((*padded.shape[:-1], logits.shape[-1]), np.float32)
                weight = np.zeros((*padded.shape[:-1], 1), np.float32)
            total[place] += logits * importance
            weight[place] += importance
        if progress is not None:
            progress(done, len(places))
    return (total / weight)[cropped]


def window_starts(size: int, window: int, overlap: float) -> list[int]:
    """Where windows begin along an axis that is at least as long as they are.

    Example:
        >>> window_starts(size=155, window=64, overlap=0.5)
        [0, 32, 64, 91]
    """
    if size == window:
        return [0]
    # As MONAI rounds it: 10 * (1 - 0.8) is 1.9999999999999996, a step of 1.
    step = max(int(window * (1 - overlap)), 1)
    last = size - window
    return [*range(0, last, step), last]


def window_weights(
    window: Sequence[int], weighting: str = "gaussian", sigma_scale: float = 0.125
) -> np.ndarray:
    """The weight of each voxel of a window, (*window, 1) float32; see the top of this file.

    Raises:
        ValueError: for an unknown weighting or a scale that is not positive.

    Example:
        >>> print(window_weights((5,))[:, 0].round(3))
        [0.006 0.278 1.    0.278 0.006]
    """
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting is {weighting!r}; allowed: {', '.join(WEIGHTINGS)}.")
    if not (np.isfinite(sigma_scale) and sigma_scale > 0):
        raise ValueError(f"sigma_scale is {sigma_scale!r}; give a positive number, such as 0.125.")
    weights = np.ones(())
    for edge in window:
        distance = np.arange(edge) - (edge - 1) / 2
        gaussian = np.exp(-((distance / (sigma_scale * edge)) ** 2) / 2)
        weights = weights[..., None] * (np.ones(edge) if weighting == "constant" else gaussian)
    return np.maximum(weights, _LEAST).astype(np.float32)[..., None]


def _places(
    space: tuple[int, ...], window: tuple[int, ...], overlap: tuple[float, ...]
) -> list[tuple[slice, ...]]:
    """Where the windows lie, the last axis changing fastest."""
    starts = map(window_starts, space, window, overlap)
    return [
        tuple(slice(a, a + w) for a, w in zip(corner, window, strict=True))
        for corner in itertools.product(*starts)
    ]


def _checked(result: np.ndarray | Array, window: tuple[int, ...]) -> np.ndarray:
    """Logits on the host, float32; a ValueError unless they have the window's shape."""
    logits = np.asarray(result).astype(np.float32, copy=False)
    if logits.ndim != len(window) + 1 or logits.shape[:-1] != window:
        raise ValueError(
            f"predict returned an array of shape {logits.shape} for a window of {window}; it must "
            f"return logits ({', '.join(map(str, window))}, k) of each."
        )
    return logits


def _check(image: np.ndarray, window: tuple[int, ...], overlap: tuple[float, ...]) -> None:
    if image.ndim not in (3, 4) or not image.size:
        raise ValueError(
            f"an image of shape {image.shape}; give (x, y, z, c) or (h, w, c), one image without "
            "an axis of batches."
        )
    if len(window) != image.ndim - 1 or min(window) < 1:
        raise ValueError(
            f"window is {window} for an image of shape {image.shape}; give {image.ndim - 1} "
            "positive numbers of voxels."
        )
    if len(overlap) != len(window) or not all(0 <= share < 1 for share in overlap):
        raise ValueError(
            f"overlap is {overlap} for windows of {window}; give a share of the window, 0 to below "
            "1, or one for each axis."
        )
