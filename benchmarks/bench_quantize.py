"""Quantizers against an elementwise pass over the same array, and against their peers.

    python -m benchmarks.bench_quantize [--size 4096] [--rounds 15] [--json FILE]

The reference is ``x * 2`` on N(0, 1) data, jitted. The last column says whose bits a quantizer
produces, or how many random bits it draws.

A second table says what axes cost that are not made of whole blocks: 24 and 36 channels are cut
into pieces of blocks, 18 are padded; the reference is the same array, padded before.

On a GPU a third table follows: the fused kernels of fp4jax.kernels against XLA's code for the
same operands, at the shapes of fp4jax/kernels/fused_quantizer/arg_specs.py. Its reference is a copy
of the same array; ``% of copy`` is the bandwidth in per cent of what the large copy reaches,
counting the bytes that a fused quantizer must move: the array read twice (amax first), the result
written.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import fp4jax as fp4
from benchmarks import timing
from benchmarks.timing import Case
from fp4jax.core import reference
from fp4jax.core.blocks import normalize_axes
from fp4jax.kernels.fused_quantizer import fused
from fp4jax.kernels.fused_quantizer.arg_specs import BENCHMARKS, ArgSpec


@dataclasses.dataclass(frozen=True)
class Args:
    """Benchmark of the quantizers."""

    # side of the square float32 array
    size: int = 4096
    # rounds; each runs every case once
    rounds: int = 15
    # write the figures here, too
    json: Path | None = None


SPECS = {
    "nearest": fp4.TensorSpec(),
    "16x16": fp4.TensorSpec(block=(16, 16)),
    "stochastic": fp4.TensorSpec(rounding="stochastic"),
    "stochastic_unbiased": fp4.TensorSpec(rounding="stochastic_unbiased"),
    "hadamard": fp4.TensorSpec(hadamard=True),
    "hadamard+stochastic": fp4.TensorSpec(hadamard=True, rounding="stochastic"),
    "four_over_six": fp4.TensorSpec(scaling="four_over_six"),
}
_TE = "TransformerEngine's bits"


def cases(size: int) -> list[Case]:
    """The reference, fp4jax's quantizers, and the peers that are installed."""
    x = jax.random.normal(jax.random.key(0), (size, size))
    key = jax.random.key(1)

    def fake(spec: fp4.TensorSpec, axis: int) -> Callable[..., jax.Array]:
        return lambda x, key: fp4.fake_quantize(x, spec, axis, key)

    rows = [Case("x * 2", lambda x: x * 2, (x,), "reference")]
    rows += [
        Case(f"fake_quantize {name}", fake(spec, -1), (x, key), _note(spec))
        for name, spec in SPECS.items()
    ]
    rows += [
        Case(f"fake_quantize {name}, axis 0", fake(SPECS[name], 0), (x, key), _note(SPECS[name]))
        for name in ("nearest", "hadamard+stochastic")
    ]
    rows.append(Case("quantize (packed)", lambda x: fp4.quantize(x, SPECS["nearest"]), (x,), _TE))
    rows += [case for case in (_jax_nn(x), _qwix(x)) if case is not None]
    return rows


#: Channels with a common divisor of 8, 4 and 2 with a block.
_CHANNELS = (24, 36, 18)


def channel_cases(channels: int, positions: int) -> list[Case]:
    """An axis of ``channels``, padded to whole blocks by hand, and as it is."""
    x = jax.random.normal(jax.random.key(0), (positions, channels))
    behind = -channels % 16

    def padded(x: jax.Array, key: jax.Array, spec: fp4.TensorSpec) -> jax.Array:
        whole = jnp.pad(x, ((0, 0), (0, behind)))
        return fp4.fake_quantize(whole, spec, -1, key)[:, :channels]

    def as_it_is(x: jax.Array, key: jax.Array, spec: fp4.TensorSpec) -> jax.Array:
        return fp4.fake_quantize(x, spec, -1, key)

    spec, key = SPECS["stochastic"], jax.random.key(1)
    note = _note(spec)
    return [
        Case(f"{channels} channels, {name}", functools.partial(function, spec=spec), (x, key), note)
        for name, function in (("padded", padded), ("as they are", as_it_is))
    ]


def _note(spec: fp4.TensorSpec) -> str:
    return _TE if not spec.stochastic else f"{spec.random_bits} random bits an element"


def _jax_nn(x: jax.Array) -> Case | None:
    """jax.nn's NVFP4 quantizer, a private function: the public op has no CPU lowering."""
    try:
        from jax._src.cudnn import scaled_matmul_stablehlo as peer
    except ImportError:
        return None

    def quantize_dequantize(x: jax.Array) -> jax.Array:
        scale = (jnp.max(jnp.abs(x)) / 2688).reshape(1)
        config = jax.nn.get_scaled_dot_general_config("nvfp4", scale)
        codes, scales = peer.quantize(x[None], config)
        blocks = codes.astype(jnp.float32).reshape(*scales.shape, 16)
        return (blocks * scales.astype(jnp.float32)[..., None] * scale).reshape(x.shape)

    return Case("jax.nn quantizer + dequantize", quantize_dequantize, (x,), "other bits, drops NaN")


def _qwix(x: jax.Array) -> Case | None:
    try:
        import qwix
    except ImportError:
        return None

    def quantize_dequantize(x: jax.Array) -> jax.Array:
        return qwix.dequantize(qwix.quantize(x, "nvfp4", tiled_axes={1: 16}))

    return Case("qwix quantize + dequantize", quantize_dequantize, (x,), "no tensor scale")


#: Calls in one program, on arrays of their own, so that caches do not hold them.
_CALLS = 4
#: Such programs that are under way at once on a GPU.
_IN_FLIGHT = 4


def kernel_tables(
    rounds: int, shapes: Sequence[ArgSpec] = BENCHMARKS, interpret: bool = False
) -> Iterator[tuple[ArgSpec, str, list[timing.Result]]]:
    """For each shape a title; and copy, XLA and fused kernel, as operands of a GEMM and packed."""
    largest = max(shapes, key=_bytes)
    copy = _run("copy", lambda x: x * 2, _arrays(largest))
    bandwidth = 2 * _bytes(largest) / timing.alternate([copy], rounds)[0].median
    for args in shapes:
        title = f"{args.name}: {args.shape} {args.dtype} along {args.axis}, {_described(args.spec)}"
        results = timing.alternate(_kernel_runs(args, interpret), rounds)
        yield (
            args,
            title,
            [
                dataclasses.replace(r, more=_rates(_moved(args, r.name), r, bandwidth))
                for r in results
            ],
        )


def _rates(moved: float, result: timing.Result, bandwidth: float) -> dict[str, float]:
    return {"us": result.median * 1e6, "% of copy": 100 * moved / result.median / bandwidth}


def _moved(args: ArgSpec, name: str) -> float:
    """Bytes that must move: a copy reads and writes, a quantizer reads twice and writes."""
    if name == "copy":
        return 2 * _bytes(args)
    a_value = 2 if name.startswith("operand") else 0.5 + 1 / (16 * args.spec.block[0])
    return 2 * _bytes(args) + a_value * args.size


def _bytes(args: ArgSpec) -> int:
    return args.size * jnp.dtype(args.dtype).itemsize


def _described(spec: fp4.TensorSpec) -> str:
    block = f"{spec.block[0]}x{spec.block[1]}"
    return f"{block}, {spec.rounding}{', hadamard' if spec.hadamard else ''}"


def _arrays(args: ArgSpec) -> list[jax.Array]:
    keys = jax.random.split(jax.random.key(0), _CALLS)
    return [jax.random.normal(key, args.shape).astype(args.dtype) for key in keys]


def _kernel_runs(args: ArgSpec, interpret: bool) -> list[timing.Run]:
    spec, axes = args.spec, normalize_axes(args.axis, args.spec.block, len(args.shape))

    def kernel(function: Callable, *amax: None) -> Callable[..., Any]:
        return lambda x, key: function(x, key, *amax, spec, axes, interpret=interpret)

    def xla_operand(x: jax.Array, key: jax.Array | None) -> Any:
        values, amax = reference.operand(x, key, None, spec, axes)
        return values.astype(jnp.bfloat16), amax

    functions = {
        "copy": lambda x, key: x * 2,
        "operand, XLA": xla_operand,
        "operand, fused": kernel(fused.operand, None),
        "packed, XLA": lambda x, key: reference.packed(x, key, spec, axes),
        "packed, fused": kernel(fused.packed),
    }
    arrays = _arrays(args)
    key = jax.random.key(1) if spec.stochastic else None
    return [_run(name, functools.partial(f, key=key), arrays) for name, f in functions.items()]


def _run(name: str, function: Callable[..., Any], arrays: list[jax.Array]) -> timing.Run:
    """Calls one after the other in one program, so that caches do not help.

    On GPUs several such programs are under way at once, so that launching them does not count.
    """

    def calls(arrays: list[jax.Array]) -> list[Any]:
        results: list[Any] = []
        for x in arrays:
            if results:
                x, results[-1] = jax.lax.optimization_barrier((x, results[-1]))
            results.append(function(x))
        return results

    compiled = jax.jit(calls).lower(arrays).compile()
    times = 1 if jax.default_backend() == "cpu" else _IN_FLIGHT
    call = timing.in_flight(functools.partial(compiled, arrays), times)
    return timing.Run(name, call, steps=len(arrays) * times)


def main(args: Args) -> None:
    print(timing.machine())
    results = timing.measure(cases(args.size), args.rounds)
    title = f"{args.size} x {args.size} float32; ratio = time over that of x * 2"
    timing.show(title, results, elements=args.size**2)
    tables = {title: results}
    for channels in _CHANNELS:
        title = f"{channels} channels; ratio = time over that of a padded array"
        tables[title] = timing.measure(channel_cases(channels, 32 * args.size), args.rounds)
        timing.show(title, tables[title])
    if jax.default_backend() == "gpu":
        for _, title, results in kernel_tables(args.rounds):
            tables[title] = results
            timing.show(title, results)
    if args.json:
        timing.save(args.json, tables)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Args, description=__doc__))
