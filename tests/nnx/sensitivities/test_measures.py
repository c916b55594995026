"""KL of logits against its definition in double precision; sums of gradients."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, log_expit, log_softmax, softmax

from fp4jax.nnx.sensitivities.measures import gradient_sums, kl_divergence, relative_error
from tests.samples import normal


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_kl_divergence(activation):
    """Of logits that agree to a thousandth, and of such that exp(their difference) overflows."""
    z = 3 * normal(1, 50, 40, 4)
    for scale in (1e-3, 0.1, 3.0, 200.0):
        other = z + scale * normal(2, 50, 40, 4)
        a, b = (np.asarray(v, np.float64) for v in (z, other))
        if activation == "softmax":
            terms = softmax(a, -1) * (log_softmax(a, -1) - log_softmax(b, -1))
        else:
            p = expit(a)
            terms = p * (log_expit(a) - log_expit(b)) + (1 - p) * (log_expit(-a) - log_expit(-b))
        assert float(kl_divergence(z, other, activation)) == pytest.approx(
            terms.sum(-1).mean(), rel=2e-3
        )
    assert float(kl_divergence(z, z, activation)) == 0


def test_gradients():
    a = {"a": jnp.array([3.0, 4.0]), "b": jnp.zeros((1, 1))}
    b = {"a": jnp.array([3.0, 0.0]), "b": jnp.full((1, 1), 4.0, jnp.bfloat16)}
    error, cosine = relative_error([np.asarray(gradient_sums(a, b))] * 2)
    assert error == pytest.approx(np.sqrt(16 + 16) / 5)
    assert cosine == pytest.approx(9 / 25)
    zero = [np.zeros(4)]
    assert relative_error(zero) == (0.0, 1.0)
    assert relative_error([np.array([0.0, 1.0, 0.0, 1.0])]) == (np.inf, 0.0)
