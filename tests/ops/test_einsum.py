"""fp4.einsum: jnp.einsum's shapes and values, roles in the operands' order, clear mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import fp4jax as fp4
from fp4jax.ops.einsum import parse
from tests.checks import assert_same_sums
from tests.samples import assert_same_bits, sample

FORMS = {
    "bqhd,bkhd->bhqk": ((2, 3, 4, 20), (2, 5, 4, 20)),
    "...ij,jk->...ik": ((2, 3, 18), (18, 6)),
    "ij,...jk->...ki": ((3, 18), (2, 18, 6)),
    "...i,...i": ((2, 1, 18), (1, 4, 18)),
    "abz,bc->ca": ((3, 18, 2), (18, 5)),  # z is summed
    "ab,cd->": ((3, 4), (2, 5)),
    "ab,ab->ab": ((3, 1), (3, 4)),  # broadcast
    "ba,cb": ((3, 4), (5, 3)),  # implicit, in alphabetical order
    " i , j -> j i ": ((3,), (4,)),
}


@pytest.mark.parametrize("subscripts", FORMS)
def test_it_is_that_of_jax(subscripts):
    a, b = (sample("normal", shape) for shape in FORMS[subscripts])
    expected = jax.jit(jnp.einsum, static_argnums=0)(subscripts, a, b)
    actual = jax.jit(lambda a, b: fp4.einsum(subscripts, a, b, recipe="baseline"))(a, b)
    assert_same_sums(actual, expected, subscripts)


def test_the_first_operand_is_x():
    """Also where the result has the second operand's index first."""
    recipe = fp4.Recipe(name="x", fprop=(fp4.TensorSpec(), None))
    a, b = sample("normal", (6, 20)), sample("normal", (20, 5))
    numbers = (((1,), (0,)), ((), ()))
    expected = fp4.dot_general(a, b, numbers, recipe=recipe)
    assert_same_bits(fp4.einsum("ij,jk->ki", a, b, recipe=recipe), expected.T)
    assert parse("ij,jk->ki", a.shape, b.shape).dimension_numbers == numbers
    assert parse("ij,jk->ki", a.shape, b.shape).order == (1, 0)


def test_sharding_of_the_result():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))
    a = jax.device_put(sample("normal", (4, 20)), NamedSharding(mesh, P("data")))
    b = jax.device_put(sample("normal", (20, 6)), NamedSharding(mesh, P()))
    with jax.set_mesh(mesh):
        y = jax.jit(
            lambda a, b: fp4.einsum("ij,jk->ki", a, b, recipe=1, out_sharding=P(None, "data"))
        )(a, b)
        assert jax.typeof(y).sharding.spec == P(None, "data")
    expected = fp4.einsum("ij,jk->ki", np.asarray(a), np.asarray(b), recipe=1)
    assert_same_sums(np.asarray(y), expected)


@pytest.mark.parametrize(
    ("subscripts", "shapes", "message"),
    [
        ("ii,ij->j", ((3, 3), (3, 4)), "repeats an index in 'ii'; take jnp.diagonal"),
        ("ij->i", ((3, 4),), "two operands.*got 'ij->i' and 1 operands"),
        ("ij,jk,kl->il", ((3, 4),) * 3, "got .* and 3 operands"),
        ("ij,jk,kl->il", ((3, 4),) * 2, "is of 3 operands"),
        ("ij,jk->iz", ((3, 4), (4, 5)), "names z in the result alone"),
        ("ij,jk->ik", ((3, 4), (5, 6)), "one index the sizes 4 and 5"),
        ("ijk,jk->ik", ((3, 4), (4, 6)), "'ijk' of .* does not fit an operand of shape"),
        ("...ij,jk->ik", ((2, 3, 4), (4, 6)), "so the result needs it too"),
        ("i1,1k->ik", ((3, 4), (4, 6)), "letters, '...', ',' and '->' only"),
    ],
)
def test_mistakes(subscripts, shapes, message):
    with pytest.raises(ValueError, match=message):
        fp4.einsum(subscripts, *map(jnp.ones, shapes), recipe="full")
