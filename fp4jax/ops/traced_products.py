"""The matrix products and convolutions of a traced program, and their multiply-adds."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from jax import lax


class TracedProduct(NamedTuple):
    """An equation of a program that multiplies.

    ``scope`` are the names of ``jax.named_scope`` around it, outermost first; ``times`` is how
    often it runs: the body of a ``lax.scan`` once for each step. ``equation`` is None for a scope
    that was asked for as a whole.
    """

    scope: tuple[str, ...]
    equation: Any
    times: int

    @property
    def multiply_adds(self) -> int:
        """Of all times; 0 for a whole scope, of which only the caller knows."""
        return 0 if self.equation is None else self.times * multiply_adds(self.equation)


def traced_products(
    jaxpr: Any, whole: str = "", *, scope: tuple[str, ...] = (), times: int = 1
) -> Iterator[TracedProduct]:
    """All matrix products and convolutions of a program.

    Of the branches of a ``lax.cond``, and of what depends on the platform, the one with most
    multiply-adds counts. The body of a ``lax.while_loop`` counts once, and Pallas kernels not at
    all.

    Args:
        jaxpr: of the program.
        whole: scopes whose name starts so come as one, whatever is inside.
        scope, times: around the program.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> program = jax.make_jaxpr(lambda x, w: x @ w)(jnp.ones((2, 3)), jnp.ones((3, 4)))
        >>> [product.multiply_adds for product in traced_products(program.jaxpr)]
        [24]
    """
    done = set()
    for equation in jaxpr.eqns:
        inner = (*scope, *_names(equation))
        marks = [name for name in inner if whole and name.startswith(whole)]
        if marks:
            if marks[0] not in done:
                yield TracedProduct(inner, None, times)
            done.add(marks[0])
            continue
        primitive = equation.primitive
        if primitive in (lax.dot_general_p, lax.conv_general_dilated_p):
            yield TracedProduct(inner, equation, times)
        if primitive.name == "pallas_call":
            continue
        repeated = times * (equation.params["length"] if primitive.name == "scan" else 1)
        found = [
            list(traced_products(sub, whole, scope=inner, times=repeated))
            for sub in _programs(equation)
        ]
        if primitive.name == "cond":
            found = [max(found, key=lambda b: (sum(p.multiply_adds for p in b), len(b)))]
        for products in found:
            yield from products


def multiply_adds(equation: Any) -> int:
    """Size of the result x length of the contraction; zeros that dilate x are not counted.

    A convolution counts output positions x kernel weights, a transposed one input positions x
    kernel weights.
    """
    lhs, rhs = (v.aval.shape for v in equation.invars[:2])
    out = equation.outvars[0].aval.size
    if equation.primitive is lax.dot_general_p:
        (contracted, _), _ = equation.params["dimension_numbers"]
        return out * math.prod(lhs[d] for d in contracted)
    layout = equation.params["dimension_numbers"].rhs_spec
    features, channels = rhs[layout[0]], rhs[layout[1]]
    if math.prod(equation.params["lhs_dilation"]) == 1:
        return out * math.prod(rhs) // max(features, 1)
    groups = equation.params["feature_group_count"]
    return math.prod(lhs) * math.prod(rhs) // max(channels * groups, 1)


def _programs(equation: Any) -> Iterator[Any]:
    """The programs within an equation."""
    for value in equation.params.values():
        for sub in value if isinstance(value, tuple | list) else (value,):
            sub = getattr(sub, "jaxpr", sub)
            if hasattr(sub, "eqns"):
                yield sub


def _names(equation: Any) -> list[str]:
    """Named scopes around an equation, without those that jnp.einsum opens for its formula."""
    names = str(equation.source_info.name_stack).split("/")
    return [name for name in names if name and "->" not in name]
