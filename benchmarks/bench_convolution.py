"""Where one form of a convolution becomes faster than another on CPU: fp4jax's ``Crossovers``.

    python -m benchmarks.bench_convolution [--rounds 7]

For each threshold a few sizes around it, and the time of the form that is taken beyond it over that
of the form before it, on data that are not zeros. Machines differ, by more than the form does near
the threshold.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from benchmarks import timing
from benchmarks.timing import Case
from fp4jax.models.attend import attend
from fp4jax.ops.convolution import cpu
from fp4jax.ops.convolution.geometry import Window

NEVER = 10**9


@dataclasses.dataclass(frozen=True)
class Args:
    """Benchmark of the forms of convolutions on CPU."""

    # rounds; each runs every case once
    rounds: int = 7


def product(name: str, n: int, c: int, o: int, grid: int, taps: int, stride: int, ndim: int = 2):
    """A product of ``cpu.py``, by a window of equal sides, and its operands."""
    image, low = grid * stride, (taps - stride) // 2
    window = Window(*((size,) * ndim for size in (image, grid, taps, stride, 1, low)))
    shapes = {
        "image": (n, *window.image, c),
        "grid": (n, *window.grid, o),
        "kernel": (*window.taps, c, o),
    }
    roles = {"gather": "image kernel", "scatter": "grid kernel", "kernel_gradient": "image grid"}
    operands = tuple(normal(shapes[role]) for role in roles[name].split())
    f32 = jnp.dtype(jnp.float32)
    return lambda a, b: getattr(cpu, name)(a, b, window, None, f32), operands


def attention(windows: int, n: int = 64, h: int = 3, d: int = 16):
    """The gradients of attention in windows of n tokens."""
    operands = normal((1, windows, 3, h, d, n)), normal((h, n, n))
    return jax.grad(lambda a, b: jnp.square(attend(a, b, None)).sum(), (0, 1)), operands


def normal(shape: tuple[int, ...]) -> jax.Array:
    return jax.random.normal(jax.random.key(len(shape)), shape)


NARROW = {"wide_grid": NEVER, "wide_grid_dense": NEVER, "block_fewest": NEVER}
WIDE = {"wide_grid": 0, "wide_grid_dense": 0, "block_fewest": NEVER, "many_positions": 0}
GRADIENT = "kernel_gradient"
SETTINGS = {
    "odd_channels": ({"odd_channels": (NEVER, 0)}, {"odd_channels": (0, NEVER)}),
    "few_positions": ({"few_positions": NEVER}, {"few_positions": 0}),
    "wide_grid": (NARROW, WIDE),
    "wide_grid_dense": (NARROW, WIDE),
    "many_positions": (NARROW, WIDE),
    "block_fewest": (NARROW, NARROW | {"block_fewest": 0}),
    "block": ({}, {"block": NEVER}),
    "attention": ({"attention": NEVER}, {}),
}
SIZES: dict[str, tuple[tuple[int, ...], Callable]] = {
    "odd_channels": ((8, 16, 24, 48, 64), lambda o: product("gather", 1, 3, o, 128, 3, 1)),
    "few_positions": ((4, 8, 16), lambda side: product("scatter", 1, 64, 128, side, 4, 2)),
    "wide_grid": ((64, 128, 256), lambda o: product(GRADIENT, 2, 64, o, 64, 4, 2)),
    "wide_grid_dense": ((32, 64, 128), lambda o: product(GRADIENT, 1, 32, o, 8192, 3, 1, ndim=1)),
    "many_positions": ((32, 64, 96), lambda side: product(GRADIENT, 1, 64, 128, side, 4, 2)),
    "block_fewest": ((8, 16, 32, 64), lambda side: product(GRADIENT, 8, 24, 24, side, 3, 1)),
    "block": ((64, 128), lambda side: product(GRADIENT, 8, 24, 24, side, 3, 1)),
    "attention": ((64, 128, 512), attention),
}


def under(settings: dict, function: Callable) -> Callable:
    """``function``, traced with other crossovers."""

    def run(*operands: jax.Array) -> jax.Array:
        kept = cpu.CROSSOVERS
        cpu.CROSSOVERS = dataclasses.replace(kept, **settings)
        try:
            return function(*operands)
        finally:
            cpu.CROSSOVERS = kept

    return run


def rows(name: str, rounds: int, sizes: tuple[int, ...] = ()) -> list[timing.Result]:
    """The form beyond a threshold, its ratio to the one before it, at each size."""
    own_sizes, make = SIZES[name]
    found = []
    for size in sizes or own_sizes:
        function, operands = make(size)
        forms = [Case(f"{size}", under(s, function), operands) for s in SETTINGS[name]]
        found.append(timing.measure(forms, rounds)[1])
    return found


def main(args: Args) -> None:
    print(timing.machine())
    for name in SETTINGS:
        title = f"{name}, now {getattr(cpu.CROSSOVERS, name)}: time beyond it over before it"
        timing.show(title, rows(name, args.rounds))


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Args, description=__doc__))
