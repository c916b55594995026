"""The random keys of the six operands of a layer's products, drawn once a call.

Operand ``role`` rounds with the seed ``bits(fold_in(key, index of role))``: the six are
independent, and they are the same in the forward and in the backward pass.
"""

from typing import NamedTuple

import jax.numpy as jnp

from fp4jax.core import seeds
from fp4jax.core.seeds import Seed
from fp4jax.core.typing import Array, Integer
from fp4jax.ops.recipe import ROLES

_ROLES = range(len(ROLES))


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
        return seeds.seed(seeds.fold_in(key, jnp.arange(taps))).apart(self.call)

    def differing(self, word: Integer[Array, ""] | None) -> "RoleKeys":
        """The same keys for another call, numbered by ``word``."""
        if word is None:
            return self
        return self._replace(call=word if self.call is None else self.call + word)


def role_keys(key: Array | RoleKeys | None, *operands: Array) -> RoleKeys | None:
    """A key as the keys of the roles; under ``shard_map`` others for each shard of the operands.

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
    return key.differing(seeds.shard_word(key.key, *operands))


def draw(key: Array) -> Integer[Array, "*keys 6 2"]:
    """The seeds of the roles for a key, or for each of several."""
    return seeds.seed(seeds.fold_in(key, jnp.arange(len(ROLES)))).words
