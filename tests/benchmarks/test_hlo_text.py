"""Reading a compiled program's text: shapes, operands, what is called, names, source lines."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import hlo_text
from benchmarks.bench_compile import no_persistent_cache

TEXT = """HloModule jit_step, is_scheduled=true

FileNames
1 "/lib/optax/transform.py"
2 "/lib/model.py"

FunctionNames
1 "update"
2 "Block.__call__"

FileLocations
1 {file_name_id=1 function_name_id=1 line=3 end_line=3 column=1 end_column=9}
2 {file_name_id=2 function_name_id=2 line=7 end_line=7 column=1 end_column=9}

StackFrames
1 {file_location_id=2 parent_frame_id=1}
2 {file_location_id=1 parent_frame_id=2}

%max (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %maximum.0 = f32[] maximum(%a, %b)
}

%fused (p: f32[4,8]) -> (f32[4], f32[4,8]) {
  %p = f32[4,8]{1,0} parameter(0)
  %zero = f32[] constant(0)
  %negate.1 = f32[4,8]{1,0} negate(%p), metadata={op_name="step/neg" stack_frame_id=1}
  %window.1 = f32[4,2]{1,0} reduce-window(%negate.1, %zero), window={size=1x4}, to_apply=%max
  %amax.1 = f32[4]{0} reduce(%window.1, %zero), to_apply=%max, metadata={op_name="fp4_quantize/abs"}
  ROOT %tuple.1 = (f32[4]{0}, /*index=1*/f32[4,8]{1,0}) tuple(%amax.1, %negate.1)
}

ENTRY %main (x: f32[4,8], w: f32[8,2]) -> f32[4,2] {
  %x = f32[4,8]{1,0} parameter(0)
  %w = f32[8,2]{1,0} parameter(1)
  %both = (f32[4]{0}, f32[4,8]{1,0}) fusion(%x), kind=kLoop, calls=%fused
  %values = f32[4,8]{1,0} get-tuple-element(%both), index=1
  %copy.3 = f32[8,2]{0,1} copy(%w)
  %dot.1 = f32[4,2]{1,0} dot(%values, %copy.3), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %c = f32[4,2]{1,0} conditional(%dot.1), branch_computations={%fused, %max}
  ROOT %add.1 = f32[4,2]{1,0} add(%dot.1, %c), metadata={op_name="jit(step)/add" stack_frame_id=2}
}
"""


@pytest.fixture(scope="module")
def module():
    return hlo_text.parse(TEXT)


def test_instructions(module):
    assert module.name == "jit_step"
    assert list(module.computations) == ["main", "fused", "max"]
    found = module.instructions
    assert len(found) == 3 + 6 + 8
    assert found["both"].elements == 4 + 32
    assert found["both"].called == ("fused",)
    assert found["c"].called == ("fused", "max")
    assert found["window.1"].operands == ("negate.1", "zero")
    assert found["dot.1"].operands == ("values", "copy.3")
    assert [i.opcode for i in module.body(found["both"])][-1] == "tuple"


def test_frames_are_innermost_first(module):
    """A parent's number is one too high in XLA's text."""
    assert module.instructions["negate.1"].frames == ("/lib/model.py Block.__call__",)
    optimizer = ("/lib/optax/transform.py update", "/lib/model.py Block.__call__")
    assert module.instructions["add.1"].frames == optimizer


def test_what_xla_made_has_the_name_of_its_user(module):
    found = module.instructions
    assert found["window.1"].op_name == found["amax.1"].op_name == "fp4_quantize/abs"
    assert found["c"].op_name == "jit(step)/add"
    # a product has its own purpose, and its operand no user with a name
    assert found["dot.1"].op_name == found["copy.3"].op_name == ""


def test_names_of_older_texts():
    """Without tables, the file of the source is all there is."""
    metadata = 'metadata={op_name="neg" source_file="/a/b.py" source_line=3}'
    text = f"ENTRY %main (x: f32[]) -> f32[] {{\n  ROOT %n = f32[] negate(%x), {metadata}\n}}\n"
    assert hlo_text.parse(text).instructions["n"].frames == ("/a/b.py ",)


def test_a_text_without_instructions():
    with pytest.raises(ValueError, match=r"compiled\.as_text"):
        hlo_text.parse("module @jit_step {}")


def test_a_compiled_program():
    """What this JAX writes."""

    def step(x):
        with jax.named_scope("inner"):
            return jnp.sin(x @ x).sum()

    # A program from the cache of the tests has the paths of where it was compiled first.
    with no_persistent_cache():
        text = jax.jit(step).lower(jnp.ones((32, 32))).compile().as_text()
    assert text is not None
    found = hlo_text.parse(text)
    dots = [i for i in found.instructions.values() if i.opcode == "dot"]
    assert len(dots) == 1
    assert dots[0].elements == 32 * 32
    sines = [i for i in found.instructions.values() if i.op_name.endswith("inner/sin")]
    assert any(frame.endswith("step") and __file__ in frame for i in sines for frame in i.frames)
