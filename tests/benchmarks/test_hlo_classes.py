"""Instructions become classes of work; a fusion's shares add up to 1."""

import jax
import jax.numpy as jnp
import pytest

import fp4jax as fp4
from benchmarks import hlo_classes, hlo_text
from benchmarks.hlo_classes import CLASSES, COPIES, class_of, shares
from benchmarks.hlo_text import Instruction
from tests.benchmarks.test_hlo_text import TEXT

FPROP = "jit(step)/jvp(blocks.0)/attn/fp4_fprop"


@pytest.mark.parametrize(
    ("opcode", "op_name", "frame", "expected"),
    [
        ("dot", "", "", hlo_classes.DOT),
        ("multiply", "jit(f)/qk/dot_general", "", hlo_classes.DOT),
        ("convolution", "jit(f)/fprop/conv_general_dilated", "", hlo_classes.CONVOLUTION),
        ("dot", f"{FPROP}/fp4_quantize/dot_general", "", hlo_classes.HADAMARD),
        ("divide", f"{FPROP}/fp4_quantize/div", "", hlo_classes.QUANTIZERS),
        ("multiply", "jit(f)/transpose(jvp(fp4_quantize))/mul", "", hlo_classes.QUANTIZERS),
        ("multiply", f"{FPROP}/mul", "", hlo_classes.RESCALED),
        ("multiply", "jit(f)/jvp(mxfp8*mxfp4_dgrad)/mul", "", hlo_classes.RESCALED),
        ("copy", f"{FPROP}/fp4_quantize/reshape", "", COPIES["quantizers"]),
        ("transpose", f"{FPROP}/transpose", "", COPIES["products"]),
        ("copy", "", "", COPIES["model, XLA's own"]),
        ("rsqrt", "jit(f)/rsqrt", "/flax/nnx/nn/normalization.py _normalize", hlo_classes.NORMS),
        ("add", "jit(f)/add", "/fp4jax/losses/terms.py mean", hlo_classes.LOSS),
        ("sqrt", "jit(f)/sqrt", "/optax/_src/transform.py update", hlo_classes.OPTIMIZER),
        ("xor", "jit(f)/xor", "/fp4jax/nnx/keys.py rows", hlo_classes.OTHER),
        ("exponential", "jit(f)/exp", "/fp4jax/models/vit.py call", hlo_classes.MODEL),
        ("add", "jit(f)/fprop_like/add", "/fp4jax/models/vit.py call", hlo_classes.MODEL),
        ("add", "", "", hlo_classes.OTHER),
    ],
)
def test_class_of_an_instruction(opcode, op_name, frame, expected):
    frames = (frame,) if frame else ()
    assert class_of(Instruction("i", opcode, 1, op_name=op_name, frames=frames)) == expected
    assert expected in CLASSES


def test_shares_of_fusions():
    """32 elements that change sign are the model's, those that an amax reads the quantizer's."""
    found = shares(hlo_text.parse(TEXT))
    # negate: 32; reduce-window: 32, reduce: 8
    assert found["both"] == {
        hlo_classes.MODEL: pytest.approx(32 / 72),
        hlo_classes.QUANTIZERS: pytest.approx(40 / 72),
    }
    assert found["dot.1"] == {hlo_classes.DOT: 1}
    assert found["copy.3"] == {COPIES["model, XLA's own"]: 1}
    assert "x" not in found


def test_a_copy_with_an_index():
    """A fusion that computes where it copies from is a copy."""
    text = """
%fused (p: f32[64,8], i: s32[]) -> f32[1,8] {
  %p = f32[64,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %next.1 = s32[] add(%i, %i), metadata={op_name="fp4_wgrad/while/add"}
  ROOT %cut.1 = f32[32,8]{1,0} dynamic-slice(%p, %next.1), metadata={op_name="fp4_wgrad/slice"}
}

ENTRY %main (x: f32[64,8], n: s32[]) -> f32[1,8] {
  ROOT %f = f32[32,8]{1,0} fusion(%x, %n), kind=kLoop, calls=%fused
}
"""
    assert shares(hlo_text.parse(text))["f"] == {COPIES["products"]: 1}


def test_a_quantized_product():
    """Its quantizers are seen in the program that XLA makes of it, and all shares add up to 1."""
    x, w = jnp.ones((32, 64)), jnp.ones((64, 48))
    dot = jax.jit(lambda x, w: fp4.dot_general(x, w, (((1,), (0,)), ((), ())), recipe="full"))
    found = shares(hlo_text.parse(dot.lower(x, w).compile().as_text()))
    classes = {name for parts in found.values() for name in parts}
    assert {hlo_classes.QUANTIZERS, hlo_classes.DOT} <= classes <= set(CLASSES)
    assert all(sum(parts.values()) == pytest.approx(1) for parts in found.values())
