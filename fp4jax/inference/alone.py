"""Alone: the logits of examples, each computed as if there were no others.

NVFP4's tensor scale is the largest magnitude of a whole operand, so that in a batch each image's
numbers depend on the others'. Even without quantization a product may sum in another order for
another batch. A score must do neither: here an example's logits have the same bits alone, among
others, at any place and in any order.

* On CPU one program for a batch of one is called again and again: the same instructions for each
  example, and what a deployed model computes.
* On accelerators, which a batch of one leaves idle, a program takes a fixed number of examples and
  is ``jax.vmap`` of the batch of one, so that each has scales of its own. The number follows from
  an example's shape alone, and copies fill the last chunk, so all examples run through one program.
"""

import collections
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from fp4jax.core.platform import platform_of
from fp4jax.core.typing import Array, Float, Shaped

#: Images (*space, c), one after the other -> the logits (*space, k) of each, in their order.
Predict = Callable[[Iterable[np.ndarray]], Iterable[np.ndarray]]

#: Chunks in flight: the next one is computed while the host reads the last.
AHEAD = 2
#: On accelerators: examples of a chunk at most, and pixels or voxels of all of them together.
LARGEST_CHUNK = 32
CHUNK_PIXELS = 2**20


class Alone:
    """A forward pass in which examples do not depend on each other, one compilation per shape.

    Make one per network and keep it: what it compiled goes with it.

    Args:
        forward: pure, (variables, images (b, *space, c)) -> logits (b, *space, k). It is traced for
            b = 1.

    Example:
        >>> import jax.numpy as jnp, numpy as np
        >>> def forward(scale, images):  # each image depends on the largest of the batch
        ...     return scale * images / jnp.max(images)
        >>> images = np.array([1, 2, 4], np.float32).reshape(3, 1, 1, 1)
        >>> Alone(forward)(jnp.float32(2), images).ravel()
        array([2., 2., 2.], dtype=float32)
    """

    def __init__(self, forward: Callable[[Any, Array], Array]):
        def chunk(variables: Any, images: Array) -> Array:
            return jax.vmap(lambda image: forward(variables, image[None])[0])(images)

        self._one, self._chunk = jax.jit(forward), jax.jit(chunk)

    def __call__(
        self, variables: Any, images: Shaped[np.ndarray, "n ..."]
    ) -> Float[np.ndarray, "n ..."]:
        """The logits (n, *space, k) of images (n, *space, c), float32 on the host.

        Raises:
            ValueError: if there are no images.
        """
        if not len(images):
            raise ValueError("there are no images; give at least one, (n, *space, c).")
        logits = np.zeros(0, np.float32)
        for i, one in enumerate(self.each(variables, images)):
            if i == 0:
                logits = np.empty((len(images), *one.shape), np.float32)
            logits[i] = one
        return logits

    def each(
        self, variables: Any, images: Iterable[Shaped[np.ndarray, "..."]]
    ) -> Iterator[Float[np.ndarray, "..."]]:
        """The logits (*space, k) of each image (*space, c), one after the other.

        Images are taken only as they are needed, so that they may come from a generator: of slices
        read from files, or windows cut from a volume. All must have one shape.

        Args:
            variables: on the device that shall compute.
            images: arrays of one shape and dtype, or one array with a leading axis.
        """
        images = iter(images)
        waiting: collections.deque[tuple[Array, int]] = collections.deque()
        first = next(images, None)
        if first is None:
            return
        images = itertools.chain([first], images)
        size = 1 if platform_of(variables) == "cpu" else _chunk_size(np.shape(first)[:-1])
        program = self._one if size == 1 else self._chunk
        while part := list(itertools.islice(images, size)):
            # Copies change nobody's scales, and nothing is compiled again.
            filled = part + part[-1:] * (size - len(part))
            waiting.append((program(variables, np.stack(filled)), len(part)))
            if len(waiting) == AHEAD:
                yield from _read(*waiting.popleft())
        for results in waiting:
            yield from _read(*results)


def _chunk_size(space: tuple[int, ...]) -> int:
    """Examples of a chunk on accelerators; of their shape alone, so that it is nobody's choice."""
    return max(1, min(LARGEST_CHUNK, CHUNK_PIXELS // max(1, math.prod(space))))


def _read(results: Array, count: int) -> np.ndarray:
    """The first results of a chunk on the host, float32."""
    return np.asarray(results)[:count].astype(np.float32)
