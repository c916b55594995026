"""A bit-level emulator of the few PTX instructions that the kernels' inline assembly uses.

Registers are arrays of uint32: many threads at once. The semantics are those of the PTX ISA
manual, sections 9.7.8 (shifts, logic), 9.7.9 (prmt) and 9.7.4 (bfloat16 pairs).
"""

import re

import jax.numpy as jnp
import numpy as np


def run(text: str, *inputs: np.ndarray, outputs: int) -> list[np.ndarray]:
    """The registers $0, $1 ... after executing ``text`` with the inputs in those that follow."""
    registers: dict[str, np.ndarray] = {
        f"${outputs + i}": np.asarray(x, np.uint32) for i, x in enumerate(inputs)
    }
    body = text.strip().removeprefix("{").removesuffix("}")
    for line in filter(None, (part.strip() for part in body.split(";"))):
        op, rest = re.split(r"\s+", line, maxsplit=1)
        if op == ".reg":
            continue
        target, *names = (name.strip() for name in rest.split(","))
        args = [registers[name] if name in registers else np.uint32(int(name, 0)) for name in names]
        registers[target] = np.asarray(_OPS[op](*args), np.uint32)
    return [registers[f"${i}"] for i in range(outputs)]


def halves(register: np.ndarray) -> np.ndarray:
    """Two bfloat16 of each register as float64, the low half first, on a new last axis."""
    bits = np.stack([register << np.uint32(16), register & np.uint32(0xFFFF0000)], axis=-1)
    # A bfloat16 is the upper half of a float32; NumPy keeps subnormals.
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)


def _lop3(a, b, c, table):
    out = np.zeros(np.broadcast_shapes(a.shape, b.shape, c.shape), np.uint32)
    for i in range(8):
        if table >> np.uint32(i) & 1:
            terms = [x if i >> (2 - j) & 1 else ~x for j, x in enumerate((a, b, c))]
            out |= terms[0] & terms[1] & terms[2]
    return out


def _prmt(a, b, selector):
    value = a.astype(np.uint64) | (b.astype(np.uint64) << np.uint64(32))
    out = np.zeros(value.shape, np.uint64)
    for i in range(4):
        nibble = int(selector) >> (4 * i) & 15
        assert nibble < 8, "replicating signs is not emulated"
        byte = value >> np.uint64(8 * nibble) & np.uint64(255)
        out |= byte << np.uint64(8 * i)
    return out.astype(np.uint32)


def _fma_bf16x2(a, b, c):
    """Refuses to round: the kernels' products are exact."""
    exact = halves(a) * halves(b) + halves(c)
    rounded = np.asarray(exact.astype(np.float32)).astype(jnp.bfloat16)
    assert (rounded.astype(np.float64) == exact).all(), "a bfloat16 product was rounded"
    bits = rounded.view(np.uint16).astype(np.uint32)
    return bits[..., 0] | bits[..., 1] << np.uint32(16)


_OPS = {
    "mov.b32": lambda a: a,
    "shl.b32": lambda a, n: a << n,
    "shr.u32": lambda a, n: a >> n,
    "and.b32": lambda a, b: a & b,
    "lop3.b32": _lop3,
    "prmt.b32": _prmt,
    "fma.rn.bf16x2": _fma_bf16x2,
}
