"""What can be multiplied: ValueErrors before anything is computed."""

from typing import Any

import jax.numpy as jnp

from fp4jax.core.blocks import BLOCK
from fp4jax.core.number_format import NVFP4
from fp4jax.core.qtensor import QTensor
from fp4jax.core.spec import shown
from fp4jax.kernels.block_scaled_matmul.operands import Decoded

#: Dtypes that hold code value x block scale without rounding, and that products take.
_EXACT = (jnp.bfloat16, jnp.float32)
IMPLEMENTATIONS = ("auto", "reference", "pallas", "cudnn", "mosaic")


def check(a, b, implementation: str, interpret: bool) -> None:
    """ValueError unless ``scaled_matmul`` can multiply these."""
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"implementation is {shown(implementation)}; allowed: "
            f"{', '.join(map(repr, IMPLEMENTATIONS))}."
        )
    if interpret and implementation != "pallas":
        raise ValueError(
            f"interpret=True evaluates the Pallas kernel, but implementation is "
            f"{implementation!r}: pass implementation='pallas'."
        )
    if isinstance(b, QTensor):
        check_quantized("b", b, contracted=-2)
    elif isinstance(b, Decoded):
        _check_decoded(b)
    else:
        raise ValueError(
            f"b is {_kind(b)}; give a QTensor, fp4jax.quantize(w, spec, axis=0) for w of shape "
            "(k, n), or fp4jax.kernels.decode(b) of one."
        )
    if isinstance(a, QTensor):
        check_quantized("a", a, contracted=-1)
    else:
        _check_array(a)
    if a.shape[1] != b.shape[0]:
        raise ValueError(
            f"a has shape {a.shape} and b {b.shape}; a is (m, k), b (k, n), with the same k. (What "
            "was rotated by hadamard counts with the length that it had before.)"
        )
    if isinstance(a, QTensor) and a.spec.hadamard != rotated(b):
        raise ValueError(
            f"a is {_basis(a.spec.hadamard)} and b is {_basis(rotated(b))}: their product is that "
            "of two different bases. Quantize both with the same hadamard, or give a as an array, "
            "which is rotated as b is."
        )


def rotated(b: QTensor | Decoded) -> bool:
    """Whether b's values are in the basis of the random Hadamard transform."""
    return b.spec.hadamard if isinstance(b, QTensor) else b.rotated is not None


def _basis(hadamard: bool) -> str:
    return "rotated (hadamard=True)" if hadamard else "not rotated"


def check_quantized(name: str, q: Any, contracted: int) -> None:
    """ValueError unless q is a matrix, quantized along axis ``contracted``, stored as QTensors are.

    Blocks are 1x16 along that axis, or 16x16 tiles whose second axis it is.
    """
    if not isinstance(q, QTensor):
        raise ValueError(f"{name} is {_kind(q)}; give a QTensor, fp4jax.quantize(...).")
    if q.spec.format != NVFP4:
        raise ValueError(
            f"{name} is in {q.spec.format.name}; scaled_matmul multiplies nvfp4. Use "
            "fp4jax.dot_general with a recipe in that format, or dequantize() it."
        )
    if len(getattr(q.codes, "shape", ())) != 2:
        raise ValueError(
            f"{name} has shape {q.shape}; it must be a matrix. Multiply stacks with jax.vmap."
        )
    other = -3 - contracted
    if q.axes not in ((contracted,), (other, contracted)):
        along = q.axes[0] + 2 if len(q.axes) == 1 else tuple(axis + 2 for axis in q.axes)
        raise ValueError(
            f"{name} is quantized along axis {along}, but axis {contracted + 2} is contracted: use "
            f"fp4jax.quantize(..., axis={contracted + 2}), or axis={(other + 2, contracted + 2)} "
            "with block=(16, 16)."
        )
    if q.codes.dtype != jnp.uint8 or q.block_scales.dtype != jnp.float8_e4m3fn:
        raise ValueError(
            f"{name} has codes of {q.codes.dtype} and block scales of {q.block_scales.dtype}; "
            "they must be uint8 (two codes each) and float8_e4m3fn."
        )
    rows, half = q.codes.shape
    *row, k = q.lengths
    blocks = -(-k // BLOCK)
    scales = (-(-row[0] // BLOCK) if row else rows, blocks)
    if half != blocks * BLOCK // 2 or q.block_scales.shape != scales:
        raise ValueError(
            f"{name} has codes of shape {q.codes.shape} and block scales of "
            f"{q.block_scales.shape}; for k = {k} they must be {(rows, blocks * BLOCK // 2)} and "
            f"{scales}, row-major: neither transposed, swizzled nor repeated."
        )
    if q.amax.shape != () or q.amax.dtype != jnp.float32:
        raise ValueError(
            f"{name}'s amax has shape {q.amax.shape} and dtype {q.amax.dtype}; one float32 per "
            "matrix is needed."
        )


def _check_array(a) -> None:
    if getattr(a, "dtype", None) not in (jnp.float32, jnp.bfloat16):
        raise ValueError(
            f"a is {_kind(a)}; give float32 or bfloat16, or a QTensor quantized along its last "
            "axis. Cast it first, for example a.astype(jnp.bfloat16)."
        )
    if len(a.shape) != 2:
        raise ValueError(
            f"a has shape {a.shape}; it must be (m, k). Reshape it, a.reshape(-1, a.shape[-1]), "
            "or use jax.vmap."
        )


def check_decoded_dtype(dtype: Any) -> None:
    """ValueError unless values of FP4 weights, without their tensor scale, are exact in it."""
    try:
        exact = jnp.dtype(dtype) in _EXACT
    except TypeError:
        exact = False
    if not exact:
        raise ValueError(f"dtype is {shown(dtype)}; weights decode to bfloat16 or float32.")


def _check_decoded(b: Decoded) -> None:
    if b.values.ndim != 2 or b.values.dtype not in _EXACT:
        raise ValueError(
            f"b holds values of shape {b.values.shape} and dtype {b.values.dtype}; they must be "
            "(n, k) in bfloat16 or float32. Multiply stacks with jax.vmap."
        )


def _kind(x) -> str:
    dtype = getattr(x, "dtype", None)
    return f"an array of {dtype}" if dtype is not None else shown(x)
