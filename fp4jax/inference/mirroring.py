"""Mirroring at test time: the mean over what a network says of an image and of its mirror images.

For n axes there are 2^n flips f, the identity among them, and the logits of an image x are

    2^-n sum_f f(logits(f(x)))

in float32, as nnU-Net takes them. It costs 2^n times as much.
"""

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from fp4jax.inference.alone import Predict


def mirrored(predict: Predict, axes: Sequence[int]) -> Predict:
    """``predict``, averaged over all flips of some axes of space.

    Args:
        predict: images (*space, c) -> logits (*space, k), one after the other.
        axes: of space, 0 for the first; those along which training flipped. None: ``predict``.

    Raises:
        ValueError: for an axis that is named twice, is negative, or that images do not have.

    Example:
        >>> import numpy as np
        >>> def rising(images):  # says more of what is further to the right
        ...     return (image * np.arange(3, dtype=np.float32)[:, None] for image in images)
        >>> (logits,) = mirrored(rising, axes=(0,))([np.ones((3, 1), np.float32)])
        >>> logits.ravel()
        array([1., 1., 1.], dtype=float32)
    """
    axes = tuple(axes)
    if len(set(axes)) < len(axes) or min(axes, default=0) < 0:
        raise ValueError(f"axes are {axes}; name axes of space, 0 for the first, each once.")
    if not axes:
        return predict
    flips = [flip for n in range(len(axes) + 1) for flip in itertools.combinations(axes, n)]

    def flipped(images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for image in images:
            if max(axes) >= image.ndim - 1:
                raise ValueError(
                    f"axes are {axes} for images of shape {image.shape}; name axes of space, "
                    f"0 to {image.ndim - 2}."
                )
            yield from (np.flip(image, flip) for flip in flips)

    def each(images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        results = iter(predict(flipped(images)))
        while group := list(itertools.islice(results, len(flips))):
            back = map(np.flip, group, flips)
            yield functools.reduce(np.add, back) / np.float32(len(flips))

    return each
