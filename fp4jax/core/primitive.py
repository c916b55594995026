"""``jax.extend.core.Primitive`` without that module, which imports Pallas: 60 ms of every start."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jax.extend.core import Primitive as Primitive
else:
    from jax import lax

    Primitive = type(lax.add_p)
