"""Metrics of several labels from batches: each label's, and their macro mean.

One :class:`Accumulated` with a leading axis of labels; every label has what a binary mask has,
AUPRC with bounds included. Softmax logits become logits of regions first (:func:`region_logits`).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fp4jax.core.typing import Array, Float, Shaped
from fp4jax.metrics.histogram import BINS
from fp4jax.metrics.overlap import mean
from fp4jax.metrics.streaming import Accumulated, accumulate, summarize, zeros
from fp4jax.metrics.volumes import MEAN


def label_zeros(images: int, labels: int, bins: int = BINS) -> Accumulated:
    """The state before the first batch: :func:`zeros` for each label, on a leading axis.

    Raises:
        ValueError: if a number is out of range.
    """
    if labels < 1:
        raise ValueError(f"labels is {labels}; give the number of masks, at least 1.")
    state = zeros(images, bins)
    return jax.tree.map(lambda a: jnp.broadcast_to(a[None], (labels, *a.shape)), state)


def accumulate_labels(
    state: Accumulated,
    logits: Float[Array, "n *space k"],
    masks: Shaped[Array, "n *space k"],
    weights: Array | None = None,
    threshold: float = 0.5,
) -> Accumulated:
    """The state with a batch of images added; :func:`accumulate` of each label.

    Args:
        state: of :func:`label_zeros` or this function.
        logits: (n, *space, k), of independent sigmoids.
        masks: (n, *space, k), 0 and 1.
        weights: (n,); images of weight 0, the padding of a last batch, are left out.
        threshold: of the hard metrics, on probabilities.

    Raises:
        ValueError: if the shapes do not fit together or the threshold is not between 0 and 1.

    Example:
        >>> import jax.numpy as jnp
        >>> masks = jnp.zeros((2, 4, 4, 4, 3), jnp.uint8).at[:, :2].set(1)
        >>> state = label_zeros(images=2, labels=3)
        >>> state = accumulate_labels(state, 2.0 * masks.astype(jnp.float32) - 1, masks)
        >>> report = summarize_labels(state, ("whole", "core", "enhancing"))
        >>> report["core"]["auprc"], report["mean"]["hard_dice"]
        (1.0, 1.0)
    """
    k = state.count.shape[0]
    if logits.shape != masks.shape or masks.ndim < 3 or masks.shape[-1] != k:
        raise ValueError(
            f"logits of shape {logits.shape} and masks of shape {masks.shape} for {k} labels; give "
            f"both the shape (n, *space, {k})."
        )

    def of_label(label: tuple[Accumulated, Array, Array]) -> Accumulated:
        return accumulate(*label, weights, threshold)

    # One after the other: XLA:CPU takes three times as long for the same under vmap.
    by_label = (jnp.moveaxis(a, -1, 0) for a in (logits, masks))
    return jax.lax.map(of_label, (state, *by_label))


def summarize_labels(
    state: Accumulated,
    names: Sequence[str],
    patient_ids: Sequence[str] | np.ndarray | None = None,
) -> dict[str, dict[str, float]]:
    """:func:`summarize` of each label, by its name, and under ``"mean"`` the macro mean.

    The macro mean gives each label the same weight, however large its masks are. A label whose
    value is NaN, such as the AUPRC of one that has no positive pixel, is left out of it.

    Args:
        state: of :func:`accumulate_labels`.
        names: of the labels.
        patient_ids: (n,) in the order in which the images were accumulated.

    Raises:
        ValueError: if there is not one name per label, or for what :func:`summarize` refuses.
    """
    k = state.count.shape[0]
    if len(names) != k or len({*names, MEAN}) != k + 1:
        raise ValueError(f"names are {tuple(names)}; give {k}, each once, and none {MEAN!r}.")
    report = {
        name: summarize(jax.tree.map(lambda a, i=i: a[i], state), patient_ids)
        for i, name in enumerate(names)
    }
    columns = {name: np.array([r[name] for r in report.values()]) for name in report[names[0]]}
    return report | {MEAN: {name: mean(v[~np.isnan(v)]) for name, v in columns.items()}}


def region_logits(
    logits: Float[Array, "*shape classes"], regions: Sequence[int | Sequence[int]]
) -> Float[Array, "*shape k"]:
    """Logits of regions that are unions of classes, from the logits of a softmax; float32.

    A region's probability p is the sum of its classes'; log(p / (1 - p)) is the logsumexp of its
    classes minus that of all others. So the metrics of masks serve a softmax too.

    Args:
        logits: (*shape, classes).
        regions: the classes of each region, some but not all.

    Raises:
        ValueError: if a region has no class, all of them, or one that does not exist.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> z = jnp.array([0.0, 1.0, -2.0])
        >>> p = jax.nn.sigmoid(region_logits(z, [(1, 2), 2]))
        >>> bool(jnp.allclose(p[0], 1 - jax.nn.softmax(z)[0]))
        True
    """
    classes = logits.shape[-1]
    z = logits.astype(jnp.float32)
    columns = []
    for region in regions:
        inside = sorted({int(c) for c in np.ravel(region)})
        if not 0 < len(inside) < classes or inside[0] < 0 or inside[-1] >= classes:
            raise ValueError(
                f"a region has the classes {region}; give some of 0 to {classes - 1}, not all."
            )
        outside = [c for c in range(classes) if c not in inside]
        parts = (z[..., np.array(group)] for group in (inside, outside))
        a, b = (jax.nn.logsumexp(part, axis=-1) for part in parts)
        columns.append(a - b)
    return jnp.stack(columns, -1)
