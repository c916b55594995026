"""Parts of run_gpu that check bits on the device: decoding, self-checks, kernels against jnp."""

import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import bench_matmul
from benchmarks.gpu_job import Job
from fp4jax import kernels
from fp4jax.core import formats, reference
from fp4jax.core.qtensor import QTensor
from fp4jax.core.quantizer import quantize
from fp4jax.core.spec import TensorSpec
from fp4jax.kernels import backend
from fp4jax.kernels.block_scaled_matmul import base, cudnn
from fp4jax.kernels.block_scaled_matmul.arg_specs import AWKWARD
from fp4jax.kernels.experimental import mosaic
from fp4jax.kernels.fused_quantizer import fused, selfcheck
from fp4jax.kernels.fused_quantizer.arg_specs import SPECS

_TILES = TensorSpec(block=(16, 16))
#: Finite scale bytes that are not negative: those that a QTensor holds.
_SCALE_BYTES = np.arange(0x7F, dtype=np.uint8)


class WrongError(Exception):
    """A result on the device differs from the reference."""


def machine(job: Job) -> None:
    """Names, versions, memory, bandwidth."""
    device = jax.devices()[0]
    capability = backend.local_capability()
    found: dict[str, Any] = {
        "compute capability": ".".join(map(str, capability)) if capability else "none",
        "multiprocessors": backend.cores() if capability else "none",
        "runtime": device.client.platform_version.replace("\n", " "),
    }
    tool = shutil.which("nvidia-smi")
    if tool:
        query = "name,driver_version,memory.total,clocks.max.sm,power.limit"
        command = [tool, f"--query-gpu={query}", "--format=csv,noheader"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        names = ["nvidia-smi name", "driver", "memory", "highest clock", "power limit"]
        lines = said.stdout.strip().splitlines() or [""]
        found |= dict(zip(names, (part.strip() for part in lines[0].split(",")), strict=False))
    size = 2**16 if job.tiny else None
    bandwidth = bench_matmul.measured_bandwidth(job.rounds, size)
    found["copy GB/s"] = f"{bandwidth / 1e9:,.1f}"
    job.add("machine", [{"name": name, "value": str(value)} for name, value in found.items()])


def decode(job: Job) -> None:
    """16 codes x 256 scale bytes as decoded on the device, bit for bit with ml_dtypes' values."""
    rows = [_xla_decoding()]
    ways = [("reference", {}), ("pallas", _pallas_options())]
    capability = backend.local_capability()
    for name, majors in (("cudnn", cudnn.MAJORS), ("mosaic", mosaic.MAJORS)):
        if capability and capability[0] in majors:
            ways.append((name, {"implementation": name}))
    for name, options in ways:
        for spec in (TensorSpec(), _TILES):
            for m in (16,) if job.tiny else (16, 32, 64, 128):
                rows.append(_decoding_by_product(name, options, spec, m))
    title = "decoding: a product with the identity, every code at every place of a block"
    job.add(title, rows)
    _raise_if_wrong(rows)


def _pallas_options() -> dict[str, Any]:
    return {"implementation": "pallas", "interpret": jax.default_backend() != "gpu"}


def _xla_decoding() -> dict[str, Any]:
    """All 256 bytes, NaN and negative ones among them."""
    scales = np.arange(256, dtype=np.uint8).view(jnp.float8_e4m3fn)
    codes = np.tile(np.arange(16, dtype=np.uint8), (256, 1))
    packed = jnp.asarray(codes[:, 0::2] | codes[:, 1::2] << 4)
    got = np.asarray(jax.jit(base.decoded_blocks)(packed, jnp.asarray(scales[:, None])))
    with np.errstate(invalid="ignore"):
        expected = scales.astype(np.float32)[:, None] * _code_values(codes)
    wrong = _different(got.astype(np.float32), expected)
    return _row("XLA's decoding, all 256 scale bytes", got.size, wrong)


def _decoding_by_product(name: str, options: dict, spec: TensorSpec, m: int) -> dict[str, Any]:
    """Weights (n, k = m): rows 16 i to 16 i + 15 have scale byte i, and codes shifted in each."""
    n = 16 * len(_SCALE_BYTES)
    row = np.arange(n)
    codes = ((row[:, None] + np.arange(m)) % 16).astype(np.uint8)
    scales = _SCALE_BYTES[row // 16].view(jnp.float8_e4m3fn)
    expected = scales.astype(np.float32)[:, None] * _code_values(codes)
    tiles = spec.block == (16, 16)
    blocks = np.repeat(scales[:: 16 if tiles else 1, None], m // 16, axis=1)
    b = QTensor(
        codes=jnp.asarray(codes[:, 0::2] | codes[:, 1::2] << 4),
        block_scales=jnp.asarray(blocks),
        # A tensor scale of 1.
        amax=jnp.float32(2688),
        axes=(-1, -2) if tiles else (-2,),
        lengths=(n, m) if tiles else (m,),
        spec=spec,
    )
    a: Any = jnp.eye(m, dtype=jnp.bfloat16)
    if name in ("cudnn", "mosaic"):
        a = _quantized_identity(m)
    got = kernels.scaled_matmul(a, b, preferred_element_type=jnp.float32, **options)
    wrong = _different(np.asarray(got).T, expected)
    kind = "16x16" if tiles else "1x16"
    return _row(f"{name}, {kind}, {m} rows", codes.size, wrong)


def _quantized_identity(m: int) -> QTensor:
    """Codes of 1 with a block scale of 1 and a tensor scale of 1."""
    codes = 2 * np.eye(m, dtype=np.uint8)
    return QTensor(
        codes=jnp.asarray(codes[:, 0::2] | codes[:, 1::2] << 4),
        block_scales=jnp.ones((m, m // 16), jnp.float8_e4m3fn),
        amax=jnp.float32(2688),
        axes=(-1,),
        lengths=(m,),
        spec=TensorSpec(),
    )


def _code_values(codes: np.ndarray) -> np.ndarray:
    magnitudes = formats.E2M1_MAGNITUDES[codes & 7].astype(np.float32)
    return np.where(codes & 8, -magnitudes, magnitudes)


def _different(got: np.ndarray, expected: np.ndarray) -> int:
    """How many values differ; a NaN equals any NaN, a zero any zero (sums start at +0)."""
    same = (got == expected) | (np.isnan(got) & np.isnan(expected))
    return int((~same).sum())


def _row(name: str, count: int, wrong: int) -> dict[str, Any]:
    return {"name": name, "values": count, "different": wrong}


def _raise_if_wrong(rows: list[dict[str, Any]]) -> None:
    wrong = [row["name"] for row in rows if row["different"]]
    if wrong:
        raise WrongError(f"{len(wrong)} of {len(rows)} differ: {', '.join(wrong)}")


def selfchecks(job: Job) -> None:
    """What runs before a kernel's first use, for all of them; then general numbers."""
    rows: list[dict[str, Any]] = []
    title = "self-checks, and kernels against jnp; number of values that differ"
    for name, check in job.in_time(_all_checks(job.tiny), lambda item: item[0]):
        found = check()
        count = found if isinstance(found, int) else int(found is not None)
        note = found if isinstance(found, str) else ""
        rows.append({"name": name, "different": count, "note": note})
        job.add(title, rows)
    _raise_if_wrong(rows)


def _all_checks(tiny: bool) -> Iterator[tuple[str, Any]]:
    """(name, function that returns what is wrong in words, a number of wrong values, or None)."""
    interpret = jax.default_backend() != "gpu"
    capability = backend.local_capability()
    for name, module in (("cuDNN", cudnn), ("mosaic", mosaic)):
        if capability and capability[0] in module.MAJORS:
            yield f"{name}, first use", lambda m=module: m.objection(capability)
    specs = {name: SPECS[name] for name in ("nearest",)} if tiny else SPECS
    shapes = ((3, 48, 18),) if tiny else (*AWKWARD, (16, 8192, 1024), (128, 1024, 512))
    for shape in shapes:
        for unit in (True, False):
            what = "scales of 1, bit for bit" if unit else "within float32 summation order"
            name = f"pallas product {shape}, {what}"
            yield name, lambda shape=shape, unit=unit: _product_differs(shape, unit)
    for name, spec in specs.items():
        results = ("packed",) if tiny else ("operand", "packed", "fake")
        for result in results:
            for kind in ("rows",) if tiny or result == "fake" else ("rows", "columns"):
                yield (
                    f"quantizer {name}, {result}, {kind}, first use",
                    lambda s=spec, r=result, k=kind: selfcheck.difference(
                        s, "float32", r, k, interpret
                    ),
                )
    for name, spec in specs.items():
        if interpret and spec.hadamard:
            continue  # CPUs add in another order
        for axis in (0,) if tiny else (0, 1):
            yield (
                f"quantizer {name}, axis {axis}, normal float32",
                lambda s=spec, a=axis: _quantizer_differs(s, a, tiny),
            )


def _product_differs(shape: tuple[int, int, int], unit: bool) -> int:
    """Values of a W4A16 product by the kernel that are not the reference's."""
    m, k, n = shape
    rng = np.random.default_rng(0)
    a = rng.integers(-8, 9, (m, k)).astype(np.float32) if unit else rng.standard_normal((m, k))
    a = jnp.asarray(a.astype(np.float32), jnp.bfloat16)
    b = quantize(jnp.asarray(rng.standard_normal((k, n)), jnp.float32), TensorSpec(), axis=0)
    if unit:
        b = QTensor(
            b.codes,
            jnp.ones_like(b.block_scales),
            jnp.float32(2688),
            b.axes,
            b.lengths,
            b.spec,
        )
    ways: tuple[dict[str, Any], ...] = (_pallas_options(), {"implementation": "reference"})
    got, expected = (
        np.asarray(kernels.scaled_matmul(a, b, preferred_element_type=jnp.float32, **options))
        for options in ways
    )
    if unit:
        return int((got != expected).sum())
    size = np.abs(np.asarray(a, np.float32)) @ np.abs(np.asarray(b.dequantize()))
    return int((np.abs(got - expected) > k * 2.0**-24 * size + 1e-30).sum())


def _quantizer_differs(spec: TensorSpec, axis: int, tiny: bool) -> int:
    """Bytes of codes, scales and amax by the kernels that are not jnp's, on normal numbers."""
    side = 32 if tiny else 1024
    x = jax.random.normal(jax.random.key(0), (side, side))
    key = jax.random.key(1) if spec.stochastic else None
    axes = (0, 1) if spec.block == (16, 16) else (axis,)
    options = {"interpret": jax.default_backend() != "gpu"}
    got = jax.jit(lambda x, key: fused.packed(x, key, spec, axes, **options))(x, key)
    expected = jax.jit(lambda x, key: reference.packed(x, key, spec, axes))(x, key)
    as_bytes = [
        np.frombuffer(b"".join(np.asarray(part).tobytes() for part in parts), np.uint8)
        for parts in (got, expected)
    ]
    return int((as_bytes[0] != as_bytes[1]).sum())
