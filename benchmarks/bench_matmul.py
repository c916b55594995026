"""The product of a matrix and packed FP4 weights, against bfloat16 weights and XLA's own decoding.

    python -m benchmarks.bench_matmul [--rounds 9] [--rows 1 16 64] [--json FILE] [--plot FILE.png]

Each shape is a table. Its reference is the dense bfloat16 product; "XLA" is dequantize and dot in
one program; "auto" is what fp4jax.kernels.scaled_matmul takes for these rows (the note says what),
"pallas" its kernel, "decoded once" the product with fp4jax.kernels.decode(b), whose memory the
note states. Every call of a program goes through several copies of the weights, so that these come
from memory and not from a cache. GB/s counts the bytes a product must move (weights as stored, both
matrices once), and "% of copy" is that over the bandwidth of copying an array in the same run.
On GPUs several calls are under way at once, so that the time to start them does not count.

On CPU the rows and layers are few, and rows of "pallas" are left out: there is no kernel to run.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks import plots, timing
from benchmarks.timing import Result, Run
from fp4jax import kernels
from fp4jax.core.quantizer import quantize
from fp4jax.core.spec import TensorSpec
from fp4jax.kernels import backend
from fp4jax.kernels.block_scaled_matmul.arg_specs import LAYERS, ROWS, Layer, weights

#: Copies of the weights together are at least this many bytes: beyond any cache of today's GPUs.
_BEYOND_CACHE = {"gpu": 2**29, "cpu": 2**27}
_COPIED = {"gpu": 2**30, "cpu": 2**27}
_MOST_COPIES = 64


@dataclasses.dataclass(frozen=True)
class Args:
    """Benchmark of scaled_matmul."""

    # rounds; each runs every case of a table once
    rounds: int = 9
    # rows of the left operand (none: 1 to 4096, on CPU 1, 16 and 256)
    rows: tuple[int, ...] = ()
    # parts of the names of layers to take (none: all, on CPU two small ones)
    layers: tuple[str, ...] = ()
    # quantize the left operand, too (W4A4)
    quantized: bool = False
    # write the figures here, too
    json: Path | None = None
    # draw speed over bfloat16 by rows here
    plot: Path | None = None

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds is {self.rounds}; at least one is needed.")
        if any(m < 1 for m in self.rows):
            raise ValueError(f"rows is {self.rows}; each must be at least 1.")
        known = ", ".join(repr(layer.name) for layer in LAYERS)
        for part in self.layers:
            if not any(part in layer.name for layer in LAYERS):
                raise ValueError(f"layers has {part!r}; it must be a part of one of {known}.")


def measured_bandwidth(rounds: int, size: int | None = None) -> float:
    """Bytes per second of reading one array of ``size`` bytes and writing another.

    By default they are far larger than caches.
    """
    size = size or _COPIED.get(jax.default_backend(), _COPIED["gpu"])
    x = jnp.zeros(size // 4, jnp.uint32)
    copy = jax.jit(lambda x: x + jnp.uint32(1)).lower(x).compile()
    (result,) = timing.alternate([Run("copy", functools.partial(copy, x))], rounds)
    return 2 * size / min(result.seconds)


def copies(n_bytes: int) -> int:
    """How many weights a program goes through, for them to come from memory."""
    beyond = _BEYOND_CACHE.get(jax.default_backend(), _BEYOND_CACHE["gpu"])
    return max(4, min(_MOST_COPIES, -(-beyond // n_bytes)))


def calls_in_flight(m: int) -> int:
    """Products of many rows take longer than a call, and their results more memory."""
    return 1 if jax.default_backend() == "cpu" else 8 if m <= 256 else 2


def chained(product: Callable, a, many: Sequence) -> Callable:
    """One program: the products with each of the weights, in turn.

    Behind barriers, so that XLA makes no larger product of several.
    """

    def run(a, *many):
        results = []
        for b in many:
            if results:
                a, results[-1] = lax.optimization_barrier((a, results[-1]))
            results.append(product(a, b))
        return results

    return jax.jit(run).lower(a, *many).compile()


@dataclasses.dataclass(frozen=True)
class Operands:
    """Weights of a layer, copied several times: packed, and decoded to bfloat16."""

    layer: Layer
    packed: list
    decoded: list

    @classmethod
    def of(cls, layer: Layer, n_copies: int | None = None) -> "Operands":
        n_copies = n_copies or copies(layer.k * layer.n // 2)
        packed = [weights(layer, seed=i) for i in range(n_copies)]
        decode = jax.jit(kernels.decode)
        return cls(layer, packed, [decode(b) for b in packed])


def moved_bytes(m: int, layer: Layer, weight_bytes: float) -> float:
    """What a product must read and write, a and the result in bfloat16."""
    return weight_bytes + 2 * m * (layer.k + layer.n)


def title_of(layer: Layer, m: int, quantized: bool = False) -> str:
    kind = "W4A4" if quantized else "W4A16"
    shapes = f"({m}, {layer.k}) @ ({layer.k}, {layer.n})"
    return f"{layer.name}: {shapes}, {kind}; ratio = time over that of bfloat16"


def table(
    m: int, operands: Operands, bandwidth: float, rounds: int, quantized: bool = False
) -> list[Result]:
    """All ways to multiply m rows with the weights of a layer."""
    layer, packed, decoded = operands.layer, operands.packed, operands.decoded
    a = jax.random.normal(jax.random.key(1), (m, layer.k), jnp.bfloat16)
    left = quantize(a, TensorSpec()) if quantized else a
    dense = [d.values for d in decoded]
    product = functools.partial(kernels.scaled_matmul, preferred_element_type=jnp.bfloat16)
    pallas = functools.partial(product, implementation="pallas")
    choice = kernels.explain(left, packed[0])
    cases = [
        ("bfloat16", _dense, a, dense, "reference"),
        ("XLA: dequantize, dot", _by_xla, a, packed, ""),
        ("auto", product, left, packed, choice.split(",")[0]),
        ("decoded once", product, left, decoded, f"{decoded[0].nbytes / 2**20:,.1f} MiB"),
    ]
    if backend.supported() and not choice.startswith("pallas"):
        cases.append(("pallas", pallas, left, packed, ""))
    times = calls_in_flight(m)
    runs, moved = [], []
    for name, function, first, many, note in cases:
        call = functools.partial(chained(function, first, many), first, *many)
        runs.append(Run(name, timing.in_flight(call, times), note, steps=len(many) * times))
        moved.append(moved_bytes(m, layer, many[0].nbytes))
    results = timing.alternate(runs, rounds)
    return [
        dataclasses.replace(
            r,
            more={
                "us": r.median * 1e6,
                "GB/s": size / r.median / 1e9,
                "% of copy": 100 * size / r.median / bandwidth,
                "x bfloat16": 1 / r.ratio,
            },
        )
        for r, size in zip(results, moved, strict=True)
    ]


def _dense(a, b):
    """bfloat16 weights as they lie, (n, k)."""
    return lax.dot_general(a, b, (((1,), (1,)), ((), ())), preferred_element_type=jnp.bfloat16)


def _by_xla(a, b):
    """What one writes without a kernel."""
    return lax.dot_general(a, b.dequantize(jnp.bfloat16), (((1,), (0,)), ((), ())))


def chosen(args: Args) -> tuple[tuple[int, ...], tuple[Layer, ...]]:
    """Rows and layers: those asked for, else all, else what a CPU does in a minute."""
    cpu = jax.default_backend() == "cpu"
    rows = args.rows or ((1, 16, 256) if cpu else ROWS)
    names = args.layers or (("4m MLP in", "15m MLP out") if cpu else ("",))
    return rows, tuple(layer for layer in LAYERS if any(name in layer.name for name in names))


def main(args: Args) -> None:
    about = timing.machine()
    bandwidth = measured_bandwidth(args.rounds)
    about["copy GB/s"] = f"{bandwidth / 1e9:,.1f}"
    print(about)
    rows, layers = chosen(args)
    tables: dict[tuple[Layer, int], list[Result]] = {}
    titles = {}
    for layer in layers:
        operands = Operands.of(layer)
        for m in rows:
            results = table(m, operands, bandwidth, args.rounds, args.quantized)
            title = title_of(layer, m, args.quantized)
            tables[layer, m] = titles[title] = results
            timing.show(title, results)
    if args.json:
        timing.save(args.json, titles, about)
    if args.plot:
        drawn = [(layer.name, m, timing.rows(r)) for (layer, m), r in tables.items()]
        plots.speed_by_rows(args.plot, drawn)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Args, description=__doc__))
