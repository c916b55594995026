"""Dropout and stochastic depth from a counter hashed with one key a call: cheap on every device.

``nnx.Dropout`` draws 32 threefry bits an element, which on CPU costs more than the convolution
beside it. Here an element gets as few bits as its rate needs (one for 0.5), all cut from one
32-bit hash, and the layers of a model share one key: each takes the next seed of a :class:`Seeds`.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from fp4jax.core import exact
from fp4jax.core.rounding import hash_counter
from fp4jax.core.typing import Array, Float, Shaped

# Bits an element: a rate is rounded to a multiple of 2**-bits, 1/65536 at worst.
_WIDTHS = (1, 2, 4, 8, 16)


class Seeds:
    """The seeds of one model call: a key drawn once from ``rngs.dropout()``, then hashed on.

    A layer that draws takes ``next(seeds)``, two uint32 numbers. Nothing is drawn from ``rngs``
    before the first of them.

    Args:
        rngs: with a ``dropout`` (or default) stream; None if nothing will be drawn.

    Example:
        >>> from flax import nnx
        >>> seeds = Seeds(nnx.Rngs(dropout=0))
        >>> next(seeds).shape
        (2,)
    """

    def __init__(self, rngs: nnx.Rngs | None):
        self._rngs = rngs
        self._root: Array | None = None
        self._count = 0

    def __next__(self) -> Shaped[Array, "2"]:
        if self._root is None:
            if self._rngs is None:
                raise ValueError(
                    "the model is in training mode and drops units, but rngs is None; call "
                    "model(x, rngs=nnx.Rngs(dropout=key)), or model.eval() first."
                )
            self._root = jax.random.bits(self._rngs.dropout(), (2,), jnp.uint32)
        self._count += 1
        # In memory, and an array, which is an operand: kernels that have the number or the seed in
        # their code would each be compiled on their own.
        words = np.arange(2 * self._count, 2 * self._count + 2, dtype=np.uint32)
        return exact.materialize(hash_counter(jnp.asarray(words), self._root))


class Dropout(nnx.Module):
    """Zeroes elements with probability ``rate`` and divides the rest by ``1 - rate``.

    y = x * keep / (1 - p), with keep ~ Bernoulli(1 - p) for each element and p the rate rounded to
    a multiple of 2**-16 (of 2**-1 for 0.5). E[y] = x exactly for that p. The mask depends on the
    seed and on the element's index in the flattened array, not on how the array is sharded.
    ``train()``, ``eval()`` and ``nnx.view`` switch it as they switch ``nnx.Dropout``.

    Args:
        rate: probability of zero, in [0, 1).

    Raises:
        ValueError: for a rate outside [0, 1), or when called in training mode without rngs.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> y = Dropout(0.5)(jnp.ones((100, 100)), Seeds(nnx.Rngs(0)))
        >>> sorted(set(y.ravel().tolist()))
        [0.0, 2.0]
    """

    def __init__(self, rate: float | int):
        self.rate = checked_rate("dropout", rate)
        self.deterministic = False

    def set_view(self, deterministic: bool | None = None, **kwargs):
        """What ``nnx.view`` and ``nnx.with_attributes`` call.

        Args:
            deterministic: if True, the input is returned as it is.
        """
        if deterministic is not None:
            self.deterministic = deterministic
        return kwargs

    def __call__(self, x: Float[Array, "*shape"], seeds: Seeds) -> Float[Array, "*shape"]:
        if self.deterministic or self.rate == 0:
            return x
        return _drop(self.rate, x, next(seeds))

    def factors(self, shape: tuple[int, ...], seeds: Seeds) -> Float[Array, "*shape"] | None:
        """What a call would multiply a float32 array of that shape with; None if with nothing."""
        if self.deterministic or self.rate == 0:
            return None
        return _drop(self.rate, jnp.ones(shape, jnp.float32), next(seeds))


class DropPath(Dropout):
    """Stochastic depth: drops whole samples, rows of axis 0, of a residual branch.

    y[i] = x[i] * keep[i] / (1 - p); see :class:`Dropout`.

    Source: Huang et al., "Deep networks with stochastic depth", arXiv 1603.09382.
    """

    def __call__(self, x: Float[Array, "b ..."], seeds: Seeds) -> Float[Array, "b ..."]:
        if self.deterministic or self.rate == 0:
            return x
        # In memory, as seeds are: rates differ from block to block.
        factor: Any = exact.materialize(
            _drop(self.rate, jnp.ones((x.shape[0],), x.dtype), next(seeds))
        )
        return x * factor.reshape(-1, *(1,) * (x.ndim - 1))


def checked_rate(name: str, rate: float | int) -> float:
    """The rate, or ValueError if it is not in [0, 1)."""
    if not 0 <= rate < 1:
        raise ValueError(f"{name} is {rate}; a rate must be at least 0 and below 1.")
    return float(rate)


def _threshold(rate: float) -> tuple[int, int]:
    """(bits an element, how many of their 2**bits values mean: drop)."""
    width = next((w for w in _WIDTHS if (rate * 2**w).is_integer()), _WIDTHS[-1])
    # A rate next to 1 must not round to 1.
    return width, min(round(rate * 2**width), 2**width - 1)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _drop(rate: float, x: Array, seed: Array) -> Array:
    return _masked(rate, x, seed)


@_drop.defjvp
def _jvp(rate: float, primals, tangents):
    x, seed = primals
    # The mask is drawn again in the gradient: reading it back would cost as much as hashing does.
    tangent = jax.checkpoint(_masked, static_argnums=(0,), prevent_cse=False)
    return _drop(rate, x, seed), tangent(rate, tangents[0], seed)


def _masked(rate: float, x: Array, seed: Array) -> Array:
    width, dropped = _threshold(rate)
    scale = jnp.asarray(1 / (1 - dropped / 2**width), x.dtype)
    keep = _random_integers(seed, x.shape, width) >= np.uint32(dropped)
    return jnp.where(keep, x * scale, jnp.zeros((), x.dtype))


def _random_integers(seed: Array, shape: tuple[int, ...], width: int) -> Array:
    """uint32 in [0, 2**width): element i of the flattened array is bits of word i mod words.

    Neighbours take the same bits of neighbouring words, so that loads and shifts vectorize.
    """
    size, per_word = math.prod(shape), 32 // width
    words = lax.iota(jnp.uint32, -(-size // per_word))
    # The barrier keeps XLA from hashing each word anew for each element that shares it.
    words = lax.optimization_barrier(hash_counter(words, seed))
    shifts = np.arange(per_word, dtype=np.uint32)[:, None] * np.uint32(width)
    parts = (words[None, :] >> shifts) & np.uint32(2**width - 1)
    return parts.reshape(-1)[:size].reshape(shape)
