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
from collections.abc import Callable, Iterator, Sequence

import jax.numpy as jnp
import numpy as np

from fp4jax.core.typing import Array

WEIGHTINGS = ("gaussian", "constant")
_LEAST = 1e-3


def sliding_window(
    predict: Callable[[Array], Array],
    image: np.ndarray | Array,
    window: Sequence[int],
    *,
    overlap: float | Sequence[float] = 0.5,
    weighting: str = "gaussian",
    sigma_scale: float = 0.125,
    batch: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """The logits of an image, larger or smaller than the window, from its windows.

    ``predict`` sees arrays of one shape only and so is compiled once, for images of all sizes; the
    next windows are under way while the host adds up the last. If one window covers the image, the
    result is ``predict``'s, bit for bit.

    A last batch that is not full is filled up with its last window, which changes no scale that a
    quantized model takes over the batch. With ``batch=1`` windows do not depend on each other.

    Args:
        predict: (b, *window, c) -> logits (b, *window, k); best jitted.
        image: (x, y, z, c) or (h, w, c), with channels last, as ``predict`` takes it.
        window: edges in voxels.
        overlap: share of a window that its neighbour covers too, 0 to below 1; one for all axes
            or one for each.
        weighting: "gaussian" or "constant".
        sigma_scale: standard deviation of the Gaussian, of the window's edge.
        batch: windows that are computed together, at most.
        progress: is called with the windows done and the number of all, after each batch.

    Returns:
        float32 logits (*space, k) on the host.

    Raises:
        ValueError: if an argument is out of range, or the shapes do not fit.

    Example:
        >>> import jax, numpy as np
        >>> predict = jax.jit(lambda x: 2 * x[..., :1])
        >>> image = np.arange(7 * 5 * 3 * 2, dtype=np.float32).reshape(7, 5, 3, 2)
        >>> logits = sliding_window(predict, image, (4, 4, 4), batch=2)
        >>> logits.shape, bool(np.allclose(logits, 2 * image[..., :1]))
        ((7, 5, 3, 1), True)
    """
    image, window = np.asarray(image), tuple(window)
    shares = tuple(overlap) if isinstance(overlap, Sequence) else (float(overlap),) * len(window)
    _check(image, window, shares, batch)
    importance = window_weights(window, weighting, sigma_scale)
    space = image.shape[:-1]
    missing = [max(w - s, 0) for s, w in zip(space, window, strict=True)]
    padding = [(m // 2, m - m // 2) for m in missing]
    padded = np.pad(image, [*padding, (0, 0)])
    starts = [
        window_starts(s, w, share)
        for s, w, share in zip(padded.shape[:-1], window, shares, strict=True)
    ]
    places = [
        tuple(slice(a, a + w) for a, w in zip(corner, window, strict=True))
        for corner in itertools.product(*starts)
    ]
    cropped = tuple(
        slice(before, before + s) for (before, _), s in zip(padding, space, strict=True)
    )
    results = _results(predict, padded, places, min(batch, len(places)))
    total = weight = np.zeros(0, np.float32)
    done = 0
    for result in results:
        logits = _read(result, window)[: len(places) - done]
        if len(places) == 1:
            # Not multiplied and divided by its weight: these are predict's own bits.
            total, weight = logits[0], np.ones((), np.float32)
        elif done == 0:
            total = np.zeros((*padded.shape[:-1], logits.shape[-1]), np.float32)
            weight = np.zeros((*padded.shape[:-1], 1), np.float32)
        if len(places) > 1:
            for place, z in zip(places[done : done + len(logits)], logits, strict=True):
                total[place] += z * importance
                weight[place] += importance
        done += len(logits)
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


def _results(
    predict: Callable[[Array], Array],
    image: np.ndarray,
    places: list[tuple[slice, ...]],
    batch: int,
) -> Iterator[Array]:
    """What ``predict`` makes of each batch; the next one is dispatched before this one is read."""
    waiting = None
    for start in range(0, len(places), batch):
        part = places[start : start + batch]
        part = part + part[-1:] * (batch - len(part))
        result = predict(jnp.asarray(np.stack([image[place] for place in part])))
        if waiting is not None:
            yield waiting
        waiting = result
    if waiting is not None:
        yield waiting


def _read(result: Array, window: tuple[int, ...]) -> np.ndarray:
    """Logits on the host, float32; a ValueError unless they have the window's shape."""
    logits = np.asarray(result).astype(np.float32)
    if logits.ndim != len(window) + 2 or logits.shape[1:-1] != window:
        raise ValueError(
            f"predict returned an array of shape {logits.shape} for windows of {window}; it must "
            f"return logits (b, {', '.join(map(str, window))}, k)."
        )
    return logits


def _check(
    image: np.ndarray, window: tuple[int, ...], overlap: tuple[float, ...], batch: int
) -> None:
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
    if batch < 1:
        raise ValueError(f"batch is {batch!r}; give the number of windows at a time, at least 1.")
