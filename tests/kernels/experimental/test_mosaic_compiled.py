"""The tcgen05 kernel, lowered on plain CPU wheels and compiled for B200 and Thor.

Compiling needs JAX's CUDA plugin: registers, opcodes and descriptors are looked at. Nothing is
executed.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fp4jax as fp4
from fp4jax.kernels.block_scaled_matmul.arg_specs import shapes
from fp4jax.kernels.block_scaled_matmul.operands import Packed
from fp4jax.kernels.experimental import mosaic
from tests import compile_only

pytestmark = pytest.mark.slow

ROWS = fp4.TensorSpec()
TILES = fp4.TensorSpec(block=(16, 16))
FACTORS = np.array([0.37, 0.0019], np.float32)


def unchecked(a, b, out_dtype=jnp.float32):
    packed = (Packed(q.codes, q.block_scales) for q in (a, b))
    return mosaic.product(*packed, jnp.asarray(FACTORS), out_dtype, programs=148)


@pytest.mark.parametrize(
    ("m", "k", "n", "spec"), [(128, 256, 128, ROWS), (1, 70, 33, ROWS), (300, 208, 100, TILES)]
)
def test_lowers_on_plain_wheels(m, k, n, spec):
    a, b = shapes(m, k, n, a=ROWS, spec=spec)
    text = compile_only.lowers_to_cuda(unchecked, a, b, target="B200")
    assert text.count(compile_only.MOSAIC) == 1
    assert jax.eval_shape(unchecked, a, b).shape[0] == m


def compile_products(compile_):
    """Executed in a process of its own; one result in float32 and one in bfloat16."""
    for dtype in (jnp.float32, jnp.bfloat16):
        compile_(
            lambda a, b, dtype=dtype: unchecked(a, b, dtype), *shapes(2048, 2048, 2048, a=ROWS)
        )


@pytest.mark.parametrize(("target", "arch"), [("B200", "sm_100a"), ("Thor", "sm_110a")])
def test_compiles_without_spills(target, arch):
    call = f"{__name__}.compile_products"
    reports = compile_only.compile_mosaic(target, call)
    assert len(reports) == 2
    for report in reports:
        assert re.search(rf"^\.target {arch}$", report.ptx, re.M)
        assert report.spills == 0
        # 48 and 80 by the assembler of CUDA 13.
        assert report.registers <= 128
        check_ptx(report.ptx)
        (kernel,) = report.kernels.values()
        assert kernel.sass.count("UTCOMMA.4X") == 4
        assert kernel.sass.count("UTCCP") == 8


def check_ptx(ptx):
    """One stage's product is what the PTX documentation asks for."""
    kind = "kind::mxf4nvf4.block_scale.scale_vec::4X"
    # From the last branch before the copies of block scales to the last product.
    ptx = ptx[ptx.rindex("bra", 0, ptx.index("tcgen05.cp")) : ptx.rindex("tcgen05.mma") + 200]
    mma = re.findall(
        rf"tcgen05\.mma\.cta_group::1\.{kind} \[%\w+\], a_desc, b_desc, (%\w+), "
        rf"\[(%\w+)\], \[(%\w+)\], (%\w+);",
        ptx,
    )
    assert len(mma) == ptx.count("tcgen05.mma") == 4
    registers = dict(re.findall(r"mov\.b32\s+(%\w+), (\d+);", ptx))

    # 128 x 128 x 64 of E2M1 x E2M1, neither transposed nor negated, with scales in UE4M3, whose
    # first byte is each row's first. Fields not named must be zero.
    descriptor = 1 << 7 | 1 << 10 | 128 >> 3 << 17 | 0 << 23 | 128 >> 7 << 27
    assert {int(registers[idesc]) for idesc, *_ in mma} == {descriptor}

    # Operands: 32 bytes (64 of k) further each time, as 16s; lines of 128 bytes, swizzled (2),
    # in groups of eight (1024 bytes).
    for operand in "ab":
        low = re.findall(rf"add\.s32 {operand}_desc_low, %\w+, (\d+);", ptx)
        assert [int(x) for x in low] == [0, 2, 4, 6]
        high = re.findall(rf"mov\.b64 {operand}_desc, {{{operand}_desc_low, (\d+)}};", ptx)
        assert {int(x) for x in high} == {2 << 29 | 1024 >> 4}

    # Block scales: the product of 64 of k reads the columns to which its tile of 512 bytes,
    # the one for a and the one for b, was copied.
    sums = {d: (s, int(c)) for d, s, c in re.findall(r"add\.s\d+\s+(%\w+), (%\w+), (-?\d+);", ptx)}
    derived = dict(re.findall(r"(?:bfe\.u64|or\.b64)\s+(%\w+), (%\w+), \d+", ptx))

    def resolved(register, offset=0):
        while register in sums:
            register, more = sums[register]
            offset += more
        return register, offset

    copied = {}
    copies = re.findall(
        r"tcgen05\.cp\.cta_group::1\.32x128b\.warpx4\s+\[(%\w+)(?:\+(\d+))?\], (%\w+);", ptx
    )
    for column, offset, source in copies:
        while source in derived:
            source = derived[source]
        copied[resolved(column, int(offset or 0))] = resolved(source)
    assert len(copies) == len(copied) == 8
    for operand in (1, 2):
        sources = [copied[resolved(product[operand])] for product in mma]
        (root,) = {register for register, _ in sources}
        assert [offset - sources[0][1] for _, offset in sources] == [0, 512, 1024, 1536], root


def test_codes_go_to_the_kernel_as_they_are():
    """As the bytes of QTensors, without a pass over them: the low nibble is even k."""
    hlo = compile_only.optimized("B200", unchecked, *shapes(256, 512, 384, a=ROWS))
    entry = hlo[hlo.index("ENTRY") :]
    assert len(re.findall(r"f4e2m1fn\[\d+,512\]\S* bitcast\(%[ab]_codes", entry)) == 2
    assert len(re.findall(r" fusion\(%[ab]_block_scales", entry)) == 2
    assert entry.count(" fusion(") <= 3
