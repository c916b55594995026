"""Quantizers against an elementwise pass over the same array, and against their peers.

    python -m benchmarks.bench_quantize [--size 4096] [--rounds 15] [--json FILE]

The reference is ``x * 2`` on N(0, 1) data, jitted. The last column says whose bits a quantizer
produces, or how many random bits it draws.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

import fp4jax as fp4
from benchmarks import timing
from benchmarks.timing import Case


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


def main(args: Args) -> None:
    print(timing.machine())
    results = timing.measure(cases(args.size), args.rounds)
    title = f"{args.size} x {args.size} float32; ratio = time over that of x * 2"
    timing.show(title, results, elements=args.size**2)
    if args.json:
        timing.save(args.json, {title: results})


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Args, description=__doc__))
