"""The fused quantizer lowered for GPUs, and compiled: instructions, registers, exact divisions.

Compiling needs JAX's CUDA plugin. Nothing is executed.
"""

import jax
import jax.numpy as jnp
import pytest

import fp4jax as fp4
from fp4jax.kernels import first_use
from fp4jax.kernels.fused_quantizer import arithmetic, dispatch, pallas_triton
from fp4jax.kernels.fused_quantizer.arg_specs import SPECS
from fp4jax.kernels.fused_quantizer.pallas_triton import Plan
from tests import compile_only
from tests.kernels.quantized import KEY


def structs(shape, dtype):
    seed = jax.ShapeDtypeStruct((2,), jnp.uint32)
    return jax.ShapeDtypeStruct(shape, dtype), seed


def launch(plan):
    """Both kernels, of an (r, 16, c) array."""

    def function(x, seed):
        amax = pallas_triton.find_amax(x, plan)
        scalars = arithmetic.Scalars(amax, amax, amax, amax)
        seed = seed if plan.spec.stochastic else None
        return pallas_triton.quantize(x, seed, scalars, plan)

    return function


@pytest.mark.parametrize("result", ["packed", "operand", "fake"])
@pytest.mark.parametrize("name", ["nearest", "hadamard+stochastic", "16x16 stochastic_unbiased"])
def test_lowers_for_gpus(name, result):
    """On plain CPU wheels: with masks, for rows and columns."""
    plan = Plan(SPECS[name], result)
    shapes = [(600, 16, 48)] if plan.tiles else [(600, 16, 1), (9, 16, 48), (9, 16, 6)]
    for shape in shapes:
        text = compile_only.lowers_to_cuda(launch(plan), *structs(shape, jnp.bfloat16))
        assert text.count(f"fp4_quantize_{result}") >= 1
        assert text.count("fp4_amax") >= 1


@pytest.mark.parametrize("op", ["dot_general", "conv_general_dilated"])
def test_recipes_lower_for_gpus(op, monkeypatch):
    """All six operands; a convolution's taps are mapped over."""
    monkeypatch.setattr(dispatch, "_objection", lambda *args: None)
    monkeypatch.setattr(first_use, "not_at_hand", lambda capability: None)

    def loss(x, w):
        options = {"recipe": "2d+rht+sr", "key": KEY}
        if op == "dot_general":
            return (fp4.dot_general(x, w, (((3,), (0,)), ((), ())), **options) ** 2).sum()
        layout = ("NHWC", "HWIO", "NHWC")
        y = fp4.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=layout, **options)
        return (y**2).sum()

    x = jax.ShapeDtypeStruct((2, 8, 8, 32), jnp.float32)
    w = jax.ShapeDtypeStruct((32, 32) if op == "dot_general" else (3, 3, 32, 32), jnp.float32)
    text = compile_only.lowers_to_cuda(jax.grad(loss, (0, 1)), x, w)
    jax.clear_caches()
    assert text.count("fp4_quantize_operand") >= 6


#: Most SASS instructions an element, of the quantizing kernel alone, in bfloat16 on H200; with
#: CUDA 13 they are 22, 28, 34 and 38. Far more would mean that work is repeated, or that something
#: is no longer computed in registers.
MOST_INSTRUCTIONS = {
    ("nearest", "operand"): 30,
    ("hadamard", "operand"): 38,
    ("hadamard+stochastic", "operand"): 46,
    ("hadamard+stochastic", "packed"): 50,
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "result"), MOST_INSTRUCTIONS)
def test_instructions(name, result, record_property):
    plan = Plan(SPECS[name], result)
    for shape in ((2**16, 16, 1), (64, 16, 8192)):
        report = compile_only.compile_for(
            "H200", launch(plan), *structs(shape, jnp.bfloat16), kernel="fp4_quantize"
        )
        threads, blocks = 32 * pallas_triton._WARPS, pallas_triton._BLOCKS
        count = report.instructions * threads / (blocks * 16)
        kind = "rows" if shape[2] == 1 else "columns"
        record_property(f"{kind}", f"{count:.1f} an element, {report.registers} registers")
        assert count <= MOST_INSTRUCTIONS[name, result]
        assert report.spills == 0


@pytest.mark.parametrize("target", compile_only.targets())
@pytest.mark.parametrize("name", ["hadamard+stochastic", "16x16 stochastic_unbiased"])
def test_compiles_without_spills(name, target):
    """Divisions are IEEE's, and nothing is contracted where jnp rounds twice."""
    plan = Plan(SPECS[name], "operand" if name.startswith("16") else "packed")
    report = compile_only.compile_for(
        target, launch(plan), *structs((64, 16, 4096), jnp.bfloat16), kernel="fp4_"
    )
    assert report.spills == 0
    assert "div.rn.f32" in report.ptx
    for wrong in ("div.full", "div.approx", "rcp", ".ftz", "fma.rn.f32"):
        assert wrong not in report.ptx


@pytest.mark.slow
@pytest.mark.parametrize("target", compile_only.targets())
def test_all_kernels_compile(target):
    for spec in SPECS.values():
        for result in ("packed", "operand", "fake"):
            plan = Plan(spec, result)
            for columns in (48, 7, 1)[: 1 if plan.tiles else 3]:
                for dtype in (jnp.float32, jnp.bfloat16):
                    array = structs((600, 16, columns), dtype)
                    report = compile_only.compile_for(target, launch(plan), *array, kernel="fp4_")
                    assert report.spills == 0, (spec, result, columns)
