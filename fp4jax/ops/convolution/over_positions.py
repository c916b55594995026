"""The product of a kernel gradient: a sum over positions of two sides' channels."""

from jax import lax

from fp4jax.core.typing import Array, DTypeLike, Shaped


def over_positions(
    x: Shaped[Array, "positions c"],
    g: Shaped[Array, "positions o"],
    precision=None,
    preferred_element_type: DTypeLike | None = None,
) -> Shaped[Array, "c o"]:
    """``x^T g``, with the wider side on the right, where XLA:CPU is up to twice as fast.

    8192 positions, 32 and 128 channels: 265 GFLOP/s with 128 on the right, 114 with 32.

    Example:
        >>> over_positions(jnp.ones((5, 3)), jnp.ones((5, 2))).shape
        (3, 2)
    """
    turned = x.shape[1] > g.shape[1]
    left, right = (g, x) if turned else (x, g)
    over = (((0,), (0,)), ((), ()))
    product = lax.dot_general(left, right, over, precision, preferred_element_type)
    return product.T if turned else product
