"""Who gets the tcgen05 kernel: opt-in, its label, its first-use check, what follows from a failure.

Nothing here executes it on hardware.
"""

import warnings

import jax
import jax.numpy as jnp
import pytest

import fp4jax as fp4
from fp4jax import kernels
from fp4jax.kernels import backend, first_use as first_use_checks
from fp4jax.kernels.block_scaled_matmul import base, cudnn
from fp4jax.kernels.block_scaled_matmul.arg_specs import shapes
from fp4jax.kernels.block_scaled_matmul.operands import Packed
from fp4jax.kernels.experimental import mosaic
from tests import compile_only

pytestmark = pytest.mark.slow

ROWS = fp4.TensorSpec()


def by_mosaic(a, b):
    return kernels.scaled_matmul(a, b, implementation="mosaic")


def test_only_for_two_qtensors_and_tensor_memory():
    a, b = shapes(40, 64, 33, a=ROWS)
    with pytest.raises(ValueError, match="sm_100 or sm_110"):
        kernels.explain(a, b, implementation="mosaic")
    with compile_only.abstract_mesh("H200"), pytest.raises(ValueError, match="device is NVIDIA H2"):
        kernels.explain(a, b, implementation="mosaic")
    with compile_only.abstract_mesh("B200"), pytest.raises(ValueError, match="a is an array"):
        kernels.explain(shapes(40, 64, 33)[0], b, implementation="mosaic")
    with pytest.raises(ValueError, match="pass implementation='pallas'"):
        kernels.scaled_matmul(a, b, implementation="mosaic", interpret=True)


def test_a_gpu_that_is_not_at_hand_gets_the_reference():
    a, b = shapes(40, 64, 33, a=ROWS)
    with compile_only.abstract_mesh("B200"):
        assert "no GPU of compute capability 10.0 here" in kernels.explain(
            a, b, implementation="mosaic"
        )
        assert kernels.explain(a, b, implementation="mosaic").startswith("reference")
    assert compile_only.MOSAIC not in compile_only.lowers_to_cuda(by_mosaic, a, b, target="B200")


@pytest.fixture
def first_use(monkeypatch):
    """As if this were the first use on a B200; yields what sets the check's outcome."""
    first_use_checks.forget("the tcgen05 kernel")
    monkeypatch.setattr(backend, "local_capability", lambda: (10, 0))
    yield lambda outcome: monkeypatch.setattr(mosaic, "difference", outcome)
    first_use_checks.forget("the tcgen05 kernel")


def test_warns_once_that_it_was_never_executed(first_use, monkeypatch):
    first_use(lambda: None)
    monkeypatch.setattr(cudnn, "objection", lambda capability: None)
    a, b = shapes(40, 64, 33, a=ROWS)
    empty = shapes(0, 64, 33, a=ROWS)
    with compile_only.abstract_mesh("B200"):
        with pytest.warns(RuntimeWarning, match="never executed on hardware yet"):
            said = kernels.explain(a, b, implementation="mosaic")
        assert said == "mosaic: as asked for (experimental: never executed on hardware yet)"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert kernels.explain(a, b, implementation="mosaic") == said
        assert kernels.explain(a, b).startswith("cudnn")
        assert kernels.explain(*empty, implementation="mosaic").startswith("reference")


def test_a_failed_check_leaves_it_to_the_reference(first_use):
    def crash():
        raise RuntimeError("illegal instruction")

    a, b = shapes(40, 64, 33, a=ROWS)
    for outcome, words in ((lambda: "3 values wrong", "3 values wrong"), (crash, "illegal instr")):
        first_use_checks.forget("the tcgen05 kernel")
        first_use(outcome)
        with (
            compile_only.abstract_mesh("B200"),
            pytest.warns(RuntimeWarning, match=f"{words}.*does without it"),
        ):
            said = kernels.explain(a, b, implementation="mosaic")
        assert said.startswith("reference: as the tcgen05 kernel cannot be used")
        assert words in said


def reference(a, b, factors, programs=None):
    x, y = (base.decoded_blocks(*q).astype(jnp.float32) for q in (a, b))
    return (x @ y.T) * factors[0] * factors[1]


def shifted(a, b, factors, programs):
    """Block scales of b applied one block too late."""
    return reference(a, Packed(b.codes, jnp.roll(b.block_scales, 1, axis=1)), factors)


def swapped(a, b, factors, programs):
    """Codes of a byte in the wrong order, in a only."""
    return reference(Packed(a.codes >> 4 | a.codes << 4, a.block_scales), b, factors)


def reordered(a, b, factors, programs):
    """Tensor scales in the wrong order."""
    return reference(a, b, factors[::-1])


def test_the_check_accepts_the_reference_alone():
    assert mosaic.difference(reference) is None
    for wrong in (shifted, swapped, reordered):
        assert "values are wrong" in mosaic.difference(wrong)


def test_public_function_lowers_under_vmap_and_grad(monkeypatch):
    monkeypatch.setattr(mosaic, "objection", lambda capability: None)
    a, b = shapes(40, 64, 33, a=ROWS)
    stack = jax.tree.map(lambda s: jax.ShapeDtypeStruct((3, *s.shape), s.dtype), (a, b))
    text = compile_only.lowers_to_cuda(jax.vmap(by_mosaic), *stack, target="B200")
    assert text.count(compile_only.MOSAIC) == 1

    def loss(scale, a, b):
        return (scale * by_mosaic(a, b)).sum()

    scale = jax.ShapeDtypeStruct((), jnp.float32)
    text = compile_only.lowers_to_cuda(jax.grad(loss), scale, a, b, target="Thor")
    assert text.count(compile_only.MOSAIC) == 1
