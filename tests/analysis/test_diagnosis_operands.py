"""Error of operands and products: formulas by hand, and the operands that training quantizes."""

import functools
import hashlib
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fp4jax as fp4
from fp4jax import nnx as fp4nnx
from fp4jax.analysis.diagnosis import operands, tally
from fp4jax.analysis.diagnosis.products import product_sums
from fp4jax.analysis.diagnosis.recording import Call, Tensors
from fp4jax.ops import gemm
from fp4jax.ops.gemm import BlockAxes
from tests.samples import normal

LAST = BlockAxes(contracted=-1, tile=(-2, -1))
KEY = jax.random.key(0)


def test_sqnr_and_underflow_by_hand():
    # The maximum 6 makes the block's unit 1, so codes are the values of E2M1 nearest to x.
    x = np.zeros((1, 16), np.float32)
    x[0, :4] = 6, 0.2, 0.3, 4.6
    found = tally(jnp.asarray(x), fp4.TensorSpec(), LAST).quantities()
    signal, noise = 36 + 0.2**2 + 0.3**2 + 4.6**2, 0.2**2 + 0.2**2 + 0.6**2
    assert found["sqnr_db"] == pytest.approx(10 * math.log10(signal / noise), abs=1e-4)
    assert found["underflow"] == 1 / 4
    assert found["saturated"] == found["scale_zero"] == found["scale_subnormal"] == 0


def test_saturation_and_scales_by_hand():
    # Scales are maximum / 6 * 448 in E4M3: 448; 74.7 -> 72, so that 1 lies at 6.2; 0.0075, which
    # is subnormal; 0.00075 -> 0; and an empty block, which does not count.
    x = np.zeros((5, 16), np.float32)
    x[:4, 0] = 6, 1, 1e-4, 1e-5
    found = tally(jnp.asarray(x), fp4.TensorSpec(), LAST).quantities()
    assert found["saturated"] == found["underflow"] == 1 / 4
    assert found["scale_zero"] == found["scale_subnormal"] == 1 / 4


def test_rotation_and_padding_keep_the_signal():
    x = normal(1, 7, 37)
    plain, rotated = (tally(x, fp4.TensorSpec(hadamard=on), LAST, KEY) for on in (False, True))
    assert float(rotated.signal) == pytest.approx(float(plain.signal), rel=1e-5)
    q = fp4.fake_quantize(x, fp4.TensorSpec(hadamard=True))
    # What fake_quantize cuts off is the padding's share of the error.
    assert float(jnp.sum((q - x) ** 2)) <= float(rotated.noise) * (1 + 1e-5)


DOT = Call(fp4nnx.DotGeneral, ((((2,), (0,)), ((), ())),), ())
CONV = Call(
    fp4nnx.ConvGeneralDilated,
    ((2, 2), ((1, 1), (1, 1))),
    (("dimension_numbers", ("NHWC", "HWIO", "NHWC")),),
)
TRANSPOSE = Call(fp4nnx.ConvTransposeOp, ((2, 2), "SAME"), ())
CALLS = {
    "dot": (DOT, (2, 5, 32), (32, 24)),
    "conv": (CONV, (2, 8, 8, 20), (4, 4, 20, 24)),
    "transpose": (TRANSPOSE, (2, 4, 4, 20), (4, 4, 20, 24)),
}


def example(name: str) -> tuple[Call, Tensors]:
    call, x_shape, w_shape = CALLS[name]
    x, w = normal(1, *x_shape), normal(2, *w_shape)
    y = jax.eval_shape(lambda x, w: call(x, w, "baseline"), x, w)
    return call, Tensors(x, w, normal(3, *y.shape))


@pytest.mark.parametrize("name", CALLS)
def test_operands_are_those_that_training_quantizes(name, monkeypatch):
    """The same arrays, blocks and amax as the library's own products hand its quantizer.

    Not the bits: a layer's backward pass draws them by its data, the diagnosis as for one call.
    """
    recipe = fp4.get_recipe("2d+rht+sr")
    call, tensors = example(name)
    seen: dict[str, list[Any]] = {"library": [], "diagnosis": []}

    def watch(module, name, real, into):
        def note(how, x, amax):
            digest = hashlib.sha256(np.asarray(x).tobytes()).hexdigest()
            seen[into].append((*how, digest, float(amax)))

        def spy(x, spec, axes, key=None, amax=None):
            if spec is not None:
                block = axes.contracted % x.ndim if spec.block == (1, 16) else axes.tile
                how = spec.rounding, spec.hadamard, str(block), x.shape
                total = 0 if amax is None else amax
                jax.debug.callback(functools.partial(note, how), x, total)
            return real(x, spec, axes, key, amax)

        monkeypatch.setattr(module, name, spy)

    watch(gemm, "operand", gemm.operand, "library")
    watch(operands, "tally", operands.tally, "diagnosis")
    for measure in (product_sums, operands.operand_sums):
        jax.block_until_ready(jax.jit(measure, static_argnums=(0, 1))(call, recipe, tensors, KEY))
    jax.effects_barrier()
    # The tiles of w serve fprop and dgrad in the library; the diagnosis measures both.
    assert len(seen["library"]) >= 5
    assert set(seen["library"]) == set(seen["diagnosis"])


@pytest.mark.parametrize(
    "name", ["dot", *(pytest.param(n, marks=pytest.mark.slow) for n in list(CALLS)[1:])]
)
def test_the_baseline_has_no_error(name):
    call, tensors = example(name)
    baseline = fp4.get_recipe("baseline")
    for sums in operands.operand_sums(call, baseline, tensors).values():
        found = sums.quantities()
        assert found.pop("sqnr_db") == math.inf
        assert set(found.values()) == {0.0}
    for sums in product_sums(call, baseline, tensors).values():
        assert sums.quantities() == {"cosine": pytest.approx(1), "relative_error": 0.0}


def test_quantized_residuals_are_those_of_fprop():
    call, tensors = example("dot")
    sums = operands.operand_sums(call, fp4.get_recipe("chain_rule"), tensors)
    assert sums["dgrad.w"] is sums["fprop.w"]
    assert sums["wgrad.x"] is sums["fprop.x"]
    assert sums["dgrad.g"].quantities()["sqnr_db"] == math.inf
