"""einsum of two operands under a recipe, lowered to one dot_general."""

import functools
import string
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from fp4jax.core.seeds import AxisName
from fp4jax.core.spec import shown
from fp4jax.core.typing import Array, ArrayLike, DTypeLike, Shaped
from fp4jax.ops.dot import dot_general
from fp4jax.ops.recipe import Recipe
from fp4jax.ops.role_keys import RoleKeys

_EXAMPLE = 'for example einsum("bqd,bkd->bqk", q, k, recipe="full")'


def einsum(
    subscripts: str,
    *operands: Shaped[ArrayLike, "..."],
    precision: Any = None,
    preferred_element_type: DTypeLike | None = None,
    out_sharding: Any = None,
    recipe: str | int | Recipe,
    key: Array | RoleKeys | None = None,
    amax: Mapping[str, Any] | None = None,
    axis_name: AxisName = None,
    switches: Mapping[str, Any] | None = None,
) -> Shaped[Array, "..."]:
    """``jax.numpy.einsum`` of two operands whose forward and backward products are quantized.

    The first operand takes the role of x, the second that of w (:class:`fp4jax.Recipe`). An index
    of both operands is a batch dimension if the result has it and is contracted if not; these are
    the dimensions of one :func:`fp4jax.dot_general`, which has all the rest: where blocks lie, what
    amax spans, gradients. An index of one operand that the result lacks is summed first, in high
    precision. Where an index has size 1 in one operand alone, that operand is broadcast.

    Args:
        subscripts: as for ``jax.numpy.einsum``, with or without ``->``; ``...`` stands for leading
            dimensions that are broadcast. Contracted dimensions are flattened in the order of the
            first operand.
        operands: two arrays.
        precision, preferred_element_type, out_sharding: as for ``jax.numpy.einsum``.
        recipe, key, amax, axis_name, switches: as for :func:`fp4jax.dot_general`.

    Returns:
        What ``jax.numpy.einsum`` returns: same shape, and same dtype for operands of one dtype.

    Raises:
        ValueError: another number of operands than two, an index that occurs twice in one operand
            (take ``jnp.diagonal`` first), subscripts that do not fit the operands, and what
            :func:`fp4jax.dot_general` raises.

    Example:
        >>> import jax.numpy as jnp
        >>> q, k = jnp.ones((2, 5, 3, 32)), jnp.ones((2, 7, 3, 32))
        >>> einsum("bqhd,bkhd->bhqk", q, k, recipe="full").shape
        (2, 3, 5, 7)
    """
    if not isinstance(subscripts, str) or len(operands) != 2:
        raise ValueError(
            f"einsum takes a string of subscripts and two operands, {_EXAMPLE}; got "
            f"{shown(subscripts)} and {len(operands)} operands."
        )
    lhs, rhs = map(jnp.asarray, operands)
    form = parse(subscripts, lhs.shape, rhs.shape)
    lhs, rhs = _reduced(lhs, form.lhs, form.lhs_kept), _reduced(rhs, form.rhs, form.rhs_kept)
    y = dot_general(
        lhs,
        rhs,
        form.dimension_numbers,
        precision,
        preferred_element_type,
        out_sharding=_of_product(out_sharding, form.order),
        recipe=recipe,
        key=key,
        amax=amax,
        axis_name=axis_name,
        switches=switches,
    )
    return y if form.order == tuple(range(y.ndim)) else y.transpose(form.order)


class Form(NamedTuple):
    """What subscripts say of two operands; a letter for each dimension.

    Attributes:
        lhs, rhs: of the operands as they are given.
        lhs_kept, rhs_kept: what is left when the indices of one operand that the result lacks are
            summed and broadcast dimensions of size 1 are dropped.
        dimension_numbers: of ``dot_general`` of what is left.
        order: for each dimension of the result, that of ``dot_general``'s.
    """

    lhs: str
    rhs: str
    lhs_kept: str
    rhs_kept: str
    dimension_numbers: tuple
    order: tuple[int, ...]


@functools.lru_cache(maxsize=256)
def parse(subscripts: str, lhs_shape: tuple[int, ...], rhs_shape: tuple[int, ...]) -> Form:
    """The contraction that subscripts name.

    Raises:
        ValueError: subscripts that are not understood, or do not fit the shapes.

    Example:
        >>> parse("bqd,bkd->bqk", (2, 3, 4), (2, 5, 4)).dimension_numbers
        (((2,), (2,)), ((0,), (0,)))
    """
    lhs, rhs, out = _letters(subscripts, (lhs_shape, rhs_shape))
    sizes = [dict(zip(lhs, lhs_shape, strict=True)), dict(zip(rhs, rhs_shape, strict=True))]
    kept = ["", ""]
    for i, letters in enumerate((lhs, rhs)):
        for letter in letters:
            own, other = sizes[i][letter], sizes[1 - i].get(letter, 1)
            if own != other and 1 not in (own, other):
                raise ValueError(
                    f"{subscripts!r} gives one index the sizes {own} and {other}; the operands "
                    f"have shapes {lhs_shape} and {rhs_shape}."
                )
            shared = letter in sizes[1 - i]
            broadcast = shared and own == 1 != other
            summed = letter not in out and (not shared or other == 1 != own)
            if not broadcast and not summed:
                kept[i] += letter
    left, right = kept
    batch = [c for c in left if c in right and c in out]
    contracted = [c for c in left if c in right and c not in out]
    free = [c for c in left + right if c not in (*batch, *contracted)]
    place = lambda letters, of: tuple(of.index(c) for c in letters)  # noqa: E731
    dimension_numbers = (
        (place(contracted, left), place(contracted, right)),
        (place(batch, left), place(batch, right)),
    )
    made = "".join((*batch, *free))
    return Form(lhs, rhs, left, right, dimension_numbers, place(out, made))


def _letters(subscripts: str, shapes: tuple) -> tuple[str, str, str]:
    """Those of both operands and of the result, with letters for the dimensions of ``...``."""
    text = subscripts.replace(" ", "")
    inputs, arrow, out = text.partition("->")
    terms = inputs.split(",")
    if len(terms) != 2:
        raise ValueError(
            f"{subscripts!r} is of {len(terms)} operands; einsum takes two: {_EXAMPLE}."
        )
    bare = [term.replace("...", "") for term in (*terms, out)]
    if not all(c in string.ascii_letters for c in "".join(bare)):
        raise ValueError(f"{subscripts!r} may have letters, '...', ',' and '->' only.")
    for term in bare:
        if len(set(term)) < len(term):
            raise ValueError(
                f"{subscripts!r} repeats an index in {term!r}; take jnp.diagonal of the operand "
                "first."
            )
    ranks = [len(shape) - len(term) for shape, term in zip(shapes, bare, strict=False)]
    for rank, term, shape in zip(ranks, terms, shapes, strict=True):
        if rank < 0 or ("..." not in term and rank) or term.count("...") > 1:
            raise ValueError(
                f"{term!r} of {subscripts!r} does not fit an operand of shape {shape}."
            )
    unused = [c for c in string.ascii_letters if c not in text]
    # The last dimensions of both "..." are one.
    dots = "".join(unused[: max(ranks)])
    full = [
        term.replace("...", dots[len(dots) - rank :])
        for rank, term in zip(ranks, terms, strict=True)
    ]
    if not arrow:
        once = sorted(c for c in "".join(bare[:2]) if "".join(bare[:2]).count(c) == 1)
        return full[0], full[1], dots + "".join(once)
    if missing := [c for c in bare[2] if c not in bare[0] + bare[1]]:
        raise ValueError(f"{subscripts!r} names {', '.join(missing)} in the result alone.")
    if dots and "..." not in out:
        raise ValueError(f"{subscripts!r} has '...' in an operand, so the result needs it too.")
    return full[0], full[1], out.replace("...", dots)


def _reduced(x: Array, letters: str, kept: str) -> Array:
    """Without the dimensions that are not kept: their sum, which of size 1 is no sum."""
    gone = [i for i, letter in enumerate(letters) if letter not in kept]
    if not gone:
        return x
    x = jnp.sum(x, [i for i in gone if x.shape[i] != 1], keepdims=True)
    return jax.lax.squeeze(x, gone)


def _of_product(out_sharding: Any, order: tuple[int, ...]) -> Any:
    """The sharding of ``dot_general``'s result, whose dimensions lie in another order."""
    if out_sharding is None:
        return None
    named = isinstance(out_sharding, NamedSharding)
    spec = tuple(out_sharding.spec if named else out_sharding)
    spec += (None,) * (len(order) - len(spec))
    turned = PartitionSpec(*(spec[order.index(i)] for i in range(len(order))))
    return NamedSharding(out_sharding.mesh, turned) if named else turned
