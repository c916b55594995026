"""The random keys of the six operands of a layer's products, drawn once a call.

Operand ``role`` rounds with the seed ``bits(fold_in(key, index of role))``: the six are
independent, and they are the same in the forward and in the backward pass.

A layer may be called several times within a step: shared by two branches, or once per time step of
a recurrent scan. Were each call to round with the same bits, their errors would be alike and add up
instead of cancelling. A counter of calls would tell them apart, but it is state: the body of a scan
is traced once and cannot count in Python, a variable that every call changes cannot be changed
inside ``jax.lax.scan``, ``vmap`` or ``grad`` of a function that closes over the model, and
evaluating a model twice would give two results. Data need no state. The same call repeated draws
the same bits, and so does the recomputation of ``jax.checkpoint``; it works in any transformation.
So the forward pass draws by a fingerprint of x, the backward pass by one of y.

The fingerprint is a weighted sum, modulo 2**32, of the upper 12 bits (sign, exponent, 3 bits of
mantissa) of at most 256 float32 values, evenly spaced in the array. Coarse on purpose: an array
whose last bits differ, because it was computed in another order (in a lane of ``vmap``, on several
devices), has the same fingerprint but for about one call in a thousand. Then the bits are others,
as good. Calls whose arrays agree in all these values share their bits.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fp4jax.core import exact, seeds, sharding
from fp4jax.core.seeds import AxisName, Seed
from fp4jax.core.typing import Array, Integer, Shaped
from fp4jax.ops.recipe import ROLES

#: Values of an array that a fingerprint sees, at most.
SAMPLES = 256


class RoleKeys(NamedTuple):
    """What a call of a quantized operation rounds with, in place of a key.

    Attributes:
        key: the operation's ``jax.random`` key.
        seeds: uint32 (6, 2), those of the roles in the order of ROLES.
        call: uint32 that tells apart calls with the same key; None where there is one.
    """

    key: Array
    seeds: Integer[Array, "6 2"]
    call: Integer[Array, ""] | None = None

    def of(self, role: str) -> Seed:
        """The seed of one operand, "fprop.x" to "wgrad.g"."""
        return Seed(self.seeds[ROLES.index(role)]).apart(self.call)

    def of_taps(self, role: str, taps: int) -> Seed:
        """The seeds of an operand's views under each of a window's taps, (taps, 2)."""
        (key,) = seeds.fold_in(self.key, jnp.asarray([ROLES.index(role)]))
        words = seeds.seed(seeds.fold_in(key, jnp.arange(taps))).words
        # In memory, or the kernel of every tap draws all of them.
        return Seed(exact.materialize(words)).apart(self.call)

    def apart(self, word: Integer[Array, ""] | None) -> "RoleKeys":
        """The keys of another call, numbered by ``word``."""
        if word is None:
            return self
        return self._replace(call=word if self.call is None else self.call + word)

    def of_data(self, x: Shaped[Array, "..."]) -> "RoleKeys":
        """The keys of a call that is known by an array: of one call with a key, the same."""
        return self


class CallKeys(RoleKeys):
    """The keys of a layer that may be called several times: each call has its own, by its data."""

    def of_data(self, x: Shaped[Array, "..."]) -> "RoleKeys":
        if not x.size:
            return self
        out = sharding.replicated() if sharding.explicit_mesh() else None
        return self.apart(sharding.automatic(fingerprint, out)(lax.stop_gradient(x)))


def role_keys(
    key: Array | RoleKeys | None, *operands: Array, axis_name: AxisName = None
) -> RoleKeys | None:
    """A key as the keys of the roles; under ``shard_map`` others for each shard of the operands.

    So along the mapped axes of ``axis_name``.

    Example:
        >>> import jax
        >>> keys = role_keys(jax.random.key(0))
        >>> keys.seeds.shape, keys.call
        ((6, 2), None)
    """
    if key is None:
        return None
    if not isinstance(key, RoleKeys):
        key = RoleKeys(key, draw(key))
    return key.apart(seeds.shard_word(key.key, *operands, axis_name=axis_name))


def draw(key: Array) -> Integer[Array, "*keys 6 2"]:
    """The seeds of the roles for a key, or for each of several."""
    return seeds.seed(seeds.fold_in(key, jnp.arange(len(ROLES)))).words


@jax.named_scope("fp4_keys")
def fingerprint(x: Shaped[Array, "..."]) -> Integer[Array, ""]:
    """A uint32 that tells arrays apart, see the module's text.

    Example:
        >>> x = jnp.arange(32.0)
        >>> bool(fingerprint(x) == fingerprint(x)), bool(fingerprint(x) == fingerprint(x[::-1]))
        (True, False)
    """
    samples = lax.slice(x, (0,) * x.ndim, x.shape, _strides(x.shape)).astype(jnp.float32)
    upper = exact.bits(samples.reshape(-1)) >> 20
    # Odd weights: a difference in any one value changes the sum.
    weights = np.random.default_rng(0).integers(0, 2**31, samples.size, np.int32) * 2 + 1
    return (upper * weights).sum(dtype=jnp.int32).astype(jnp.uint32)


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Steps along each axis that leave at most :data:`SAMPLES` values; long axes are thinned."""
    left, strides = list(shape), [1] * len(shape)
    while np.prod(left, dtype=np.int64) > SAMPLES:
        longest = left.index(max(left))
        strides[longest] *= 2
        left[longest] = -(-shape[longest] // strides[longest])
    return tuple(strides)
