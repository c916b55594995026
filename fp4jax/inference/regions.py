"""From logits to the probabilities and the masks of regions.

Two kinds of networks, by the loss they were trained with:

========= ============ ======================================== ==============================
exclusive logits       probabilities                            masks
========= ============ ======================================== ==============================
False     (*space, k)  sigmoid, (*space, k)                     p > 1/2
True      (*space,     softmax, (*space, k + 1), the            the most probable class; of
          k + 1)       background first                         equally probable ones the first
========= ============ ======================================== ==============================

Regions may overlap, and each is a logit of its own; classes exclude each other and the background.
Several models agree on the mean of their probabilities.
"""

from collections.abc import Iterable

import numpy as np

from fp4jax import metrics
from fp4jax.core.typing import Float, UInt8


def to_probabilities(
    logits: Float[np.ndarray, "*space k"], *, exclusive: bool
) -> Float[np.ndarray, "*space k"]:
    """The probabilities of regions or, with ``exclusive``, of the background and the classes.

    Raises:
        ValueError: if a logit is NaN.

    Example:
        >>> import numpy as np
        >>> to_probabilities(np.zeros((1, 2), np.float32), exclusive=True)
        array([[0.5, 0.5]], dtype=float32)
    """
    if not exclusive:
        return metrics.probabilities(logits)
    z = np.asarray(logits).astype(np.float32)
    if np.isnan(z).any():
        raise ValueError(
            f"{np.count_nonzero(np.isnan(z))} logits are NaN; the model has diverged, or its "
            "input is not finite."
        )
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def mean_probabilities(
    probabilities: Iterable[Float[np.ndarray, "..."]],
) -> Float[np.ndarray, "..."]:
    """The mean of several models' probabilities, float32, in their order; one at a time is held.

    Raises:
        ValueError: if there are none, or their shapes differ.

    Example:
        >>> import numpy as np
        >>> mean_probabilities(np.array([[0.25, 1.0], [0.75, 0.5]], np.float32))
        array([0.5 , 0.75], dtype=float32)
    """
    total, count = np.zeros(0, np.float32), 0
    for count, p in enumerate(probabilities, start=1):
        if count > 1 and p.shape != total.shape:
            raise ValueError(
                f"probabilities of shape {p.shape} and of shape {total.shape}; average models "
                "that find the same regions in the same image."
            )
        total = p.astype(np.float32) if count == 1 else total + p
    if not count:
        raise ValueError("there is no model to average; give at least one.")
    return total / np.float32(count)


def to_masks(
    probabilities: Float[np.ndarray, "*space k"], *, exclusive: bool
) -> UInt8[np.ndarray, "*space r"]:
    """The regions, 0 and 1, that probabilities stand for; the background is none.

    Example:
        >>> import numpy as np
        >>> p = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)
        >>> to_masks(p, exclusive=False).tolist(), to_masks(p, exclusive=True).tolist()
        ([[0, 1], [0, 0]], [[1], [0]])
    """
    if not exclusive:
        return (probabilities > 0.5).astype(np.uint8)
    classes = np.argmax(probabilities, axis=-1)
    return (classes[..., None] == np.arange(1, probabilities.shape[-1])).astype(np.uint8)
