"""Attention in windows against its formula, at once and in blocks, and its gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fp4jax.models.attend import attend
from fp4jax.ops.convolution import cpu
from tests.accelerator import use_forms_of_accelerators
from tests.checks import assert_same_sums

B, WINDOWS, H, D, N = 2, 6, 3, 4, 5


def formula(qkv, bias, regions):
    q, k, v = (qkv[:, :, i] for i in range(3))
    logits = jnp.einsum("bwhdi,bwhdj->bwhij", q, k) / np.float32(D**0.5) + bias[None, None]
    if regions is not None:
        same = regions[:, :, None] == regions[:, None]
        logits = logits + jnp.where(same, 0.0, -100.0)[None, :, None]
    return jnp.einsum("bwhij,bwhdj->bwhdi", jax.nn.softmax(logits, -1), v)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("form", ["at once", "in blocks", "in blocks, for accelerators"])
def test_equals_its_formula(form, masked, monkeypatch):
    if form != "at once":
        few = dataclasses.replace(cpu.CROSSOVERS, attention=2 * H * N * N)
        monkeypatch.setattr(cpu, "CROSSOVERS", few)
    if form.endswith("accelerators"):
        use_forms_of_accelerators(monkeypatch)
    rng = np.random.default_rng(0)
    shapes = (B, WINDOWS, 3, H, D, N), (H, N, N), (B, WINDOWS, H, D, N)
    qkv, bias, g = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in shapes)
    regions = rng.integers(0, 2, (WINDOWS, N)) if masked else None

    @jax.jit
    def both(qkv, bias, g):
        results = []
        for f in (attend, formula):
            y, vjp = jax.vjp(lambda qkv, bias, f=f: f(qkv, bias, regions), qkv, bias)
            results.append((y, *vjp(g)))
        return results

    for ours, theirs in zip(*both(qkv, bias, g), strict=True):
        assert_same_sums(ours, theirs)
