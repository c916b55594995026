"""The product of wgrad: a sum over positions, of two sides' channels."""

from jax import lax

from fp4jax.core.typing import Array, DTypeLike, Shaped


def over_positions(
    x: Shaped[Array, "positions c"],
    g: Shaped[Array, "positions o"],
    precision=None,
    preferred_element_type: DTypeLike | None = None,
) -> Shaped[Array, "c o"]:
    """``x^T g``, with the wider side on the right, where XLA:CPU is up to 2.6 times as fast.

    32768 positions, 128 and 32 channels: 2.2 ms with 32 on the right, 0.9 with 128.

    Example:
        >>> import jax.numpy as jnp
        >>> over_positions(jnp.ones((5, 3)), jnp.ones((5, 2))).shape
        (3, 2)
    """
    turned = x.shape[1] > g.shape[1]
    left, right = (g, x) if turned else (x, g)
    over = (((0,), (0,)), ((), ()))
    product = lax.dot_general(left, right, over, precision, preferred_element_type)
    # Without the barrier XLA swaps them back.
    return lax.optimization_barrier(product).T if turned else product
