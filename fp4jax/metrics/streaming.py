"""Metrics of a split from batches, on the device: ``zeros``, ``accumulate``, ``summarize``.

The state is a pytree of fixed size, so ``accumulate`` runs under jit, vmap and scan and can be
donated: a histogram of logits and six sums per image. No pixel is kept.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fp4jax.core.typing import Array, Float, Shaped
from fp4jax.metrics.histogram import BINS, Histogram
from fp4jax.metrics.overlap import ImageSums

_COLUMNS = len(dataclasses.fields(ImageSums))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Accumulated:
    """What batches have added up to; see :func:`accumulate`."""

    histogram: Histogram
    # a row of ImageSums' columns per image, float32, in the order of the images
    images: Array
    # rows in use, int32
    count: Array


def zeros(images: int, bins: int = BINS) -> Accumulated:
    """The state before the first batch.

    Args:
        images: how many will be accumulated, at most.
        bins: of the histogram: a power of two. 2**14 take 128 KiB and bounded the AUPRC of 24
            million pixels to 1e-4, 2**16 to 2e-5 (the estimates were off by less than 1e-6).

    Raises:
        ValueError: if ``images`` is negative or ``bins`` is not a power of two.
    """
    if images < 0:
        raise ValueError(f"images is {images!r}; give the number of images of the split.")
    rows = jnp.zeros((images, _COLUMNS), jnp.float32)
    return Accumulated(Histogram.zeros(bins), rows, jnp.zeros((), jnp.int32))


def accumulate(
    state: Accumulated,
    logits: Float[Array, "n ..."],
    mask: Shaped[Array, "n ..."],
    weights: Array | None = None,
    threshold: float = 0.5,
) -> Accumulated:
    """The state with a batch of images added.

    Args:
        state: of :func:`zeros` or this function.
        logits: (n, *space) or (n, *space, 1).
        mask: (n, *space), 0 and 1.
        weights: (n,); images of weight 0, the padding of a last batch, are left out.
        threshold: of the hard metrics, on probabilities.

    Raises:
        ValueError: if the shapes do not fit together or the threshold is not between 0 and 1.

    Example:
        >>> import jax.numpy as jnp
        >>> state = zeros(images=3)
        >>> for n in (2, 1):
        ...     state = accumulate(state, jnp.ones((n, 4, 4, 1)), jnp.ones((n, 4, 4), jnp.uint8))
        >>> report = summarize(state, ["a", "a", "b"])
        >>> report["hard_dice"], report["patients"], report["auprc"]
        (1.0, 2.0, 1.0)
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold is {threshold!r}; give a probability between 0 and 1.")
    if logits.ndim == mask.ndim + 1 and logits.shape[-1] == 1:
        logits = logits[..., 0]
    if logits.shape != mask.shape or mask.ndim < 2:
        raise ValueError(
            f"logits of shape {logits.shape} do not fit a mask of shape {mask.shape}; give logits "
            "(n, *space) or (n, *space, 1) and a mask (n, *space)."
        )
    n = mask.shape[0]
    used = jnp.ones(n, bool) if weights is None else weights.astype(jnp.float32) != 0
    if used.shape != (n,):
        raise ValueError(f"weights of shape {used.shape} for {n} images; give shape ({n},).")
    z = logits.astype(jnp.float32).reshape(n, -1)
    y = mask.astype(jnp.float32).reshape(n, -1)
    p = jax.nn.sigmoid(z)
    hard = (z >= np.float32(np.log(threshold / (1 - threshold)))).astype(jnp.float32)
    pixels = jnp.full(n, z.shape[1], jnp.float32)
    # In the order of ImageSums' fields.
    sums = jnp.stack(
        [p.sum(1), (p * y).sum(1), y.sum(1), hard.sum(1), (hard * y).sum(1), pixels], axis=1
    )
    # Left-out images point beyond the last row, where updates are dropped.
    row = jnp.where(used, state.count + jnp.cumsum(used.astype(jnp.int32)) - 1, 2**31 - 1)
    return Accumulated(
        histogram=state.histogram.add(z, y, used),
        images=state.images.at[row].set(sums, mode="drop"),
        count=state.count + used.sum(dtype=jnp.int32),
    )


def summarize(
    state: Accumulated, patient_ids: Sequence[str] | np.ndarray | None = None
) -> dict[str, float]:
    """The names of :func:`fp4jax.metrics.evaluate` of all images accumulated.

    Sums per image are float32, so overlap metrics agree to about 1e-6. ``auprc``, ``auc`` and
    ``ece`` are estimates; ``auprc_low`` to ``ece_high`` bound their exact values.

    Args:
        state: of one lane.
        patient_ids: (n,) in the order in which the images were accumulated.

    Raises:
        ValueError: if more images were accumulated than there is room for, or not as many as
            there are patient ids.
    """
    count, room = int(state.count), state.images.shape[0]
    if count > room:
        raise ValueError(f"{count} images were accumulated in zeros(images={room}); give {count}.")
    columns = np.asarray(state.images, np.float64)[:count].T
    return ImageSums(*columns).report(patient_ids) | from_histogram(state.histogram)


def from_histogram(histogram: Histogram) -> dict[str, float]:
    """AUPRC, ROC-AUC and ECE with bounds, moments and the best threshold, by name."""
    report = histogram.moments()
    for name, bounds in (
        ("auprc", histogram.average_precision()),
        ("auc", histogram.roc_auc()),
        ("ece", histogram.calibration_error()),
    ):
        report |= {name: bounds.value, f"{name}_low": bounds.low, f"{name}_high": bounds.high}
    sweep = histogram.sweep()
    return report | {"best_threshold": sweep.best_threshold, "best_f2_score": sweep.best_f2}
