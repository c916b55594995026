"""Quantized dot, convolution and transposed convolution, forward and backward, per recipe.

    python -m benchmarks.bench_ops [--rounds 7] [--network 500k] [--memory] [--json FILE]

One step is the operation and both its gradients. The reference is jax.lax's own operation with
lax's gradients; the paper's CNN (``--network``) is also run with Flax's unchanged convolutions.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax

import fp4jax as fp4
from benchmarks import timing
from benchmarks.timing import Case
from fp4jax import models, nnx as fp4nnx


@dataclasses.dataclass(frozen=True)
class Args:
    """Benchmark of the quantized operations."""

    # rounds; each runs every case once
    rounds: int = 7
    # recipes to time
    recipes: tuple[str, ...] = (
        "baseline",
        "full",
        "forward_only",
        "chain_rule",
        "2d+rht",
        "2d+rht+sr",
        "sr",
        "forward_only+rht",
    )
    # also time a training step of the paper's CNN: 500k, 4m, 15m or none
    network: str = "500k"
    # batch size of the network, at 256 x 256
    batch: int = 8
    # also compile the 4m network at batch 32 and print its peak of temporary memory per recipe
    memory: bool = False
    # write the figures here, too
    json: Path | None = None


_NDHWC = ("NDHWC", "DHWIO", "NDHWC")
_NHWC = ("NHWC", "HWIO", "NHWC")
#: name -> (x shape, w shape, function of (lax or fp4jax, x, w, **recipe and key))
OPS: dict[str, tuple[tuple[int, ...], tuple[int, ...], Callable[..., jax.Array]]] = {
    "dot 8192x512 @ 512x512": (
        (8192, 512),
        (512, 512),
        lambda lib, x, w, **kw: lib.dot_general(x, w, (((1,), (0,)), ((), ())), **kw),
    ),
    "dot 32768x64 @ 64x192 (a small transformer's qkv)": (
        (32768, 64),
        (64, 192),
        lambda lib, x, w, **kw: lib.dot_general(x, w, (((1,), (0,)), ((), ())), **kw),
    ),
    "conv 4x4 stride 2, 64 -> 64, 8 x 64 x 64": (
        (8, 64, 64, 64),
        (4, 4, 64, 64),
        lambda lib, x, w, **kw: lib.conv_general_dilated(
            x, w, (2, 2), ((1, 1), (1, 1)), dimension_numbers=_NHWC, **kw
        ),
    ),
    "conv 3x3, 64 -> 64, 8 x 32 x 32": (
        (8, 32, 32, 64),
        (3, 3, 64, 64),
        lambda lib, x, w, **kw: lib.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=_NHWC, **kw
        ),
    ),
    "conv 3x3, 24 -> 24, 8 x 128 x 128": (
        (8, 128, 128, 24),
        (3, 3, 24, 24),
        lambda lib, x, w, **kw: lib.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=_NHWC, **kw
        ),
    ),
    "conv 3x3x3, 12 -> 12, 64 x 64 x 64": (
        (1, 64, 64, 64, 12),
        (3, 3, 3, 12, 12),
        lambda lib, x, w, **kw: lib.conv_general_dilated(
            x, w, (1, 1, 1), "SAME", dimension_numbers=_NDHWC, **kw
        ),
    ),
    "conv_transpose 4x4 stride 2, 128 -> 64, 8 x 16 x 16": (
        (8, 16, 16, 128),
        (4, 4, 128, 64),
        lambda lib, x, w, **kw: lib.conv_transpose(x, w, (2, 2), "SAME", **kw),
    ),
}


def op_cases(name: str, recipes: tuple[str, ...]) -> list[Case]:
    """lax's operation, then each recipe's: value and both gradients for a given cotangent."""
    x_shape, w_shape, op = OPS[name]
    x, w = (
        jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate((x_shape, w_shape))
    )
    key = jax.random.key(2)
    g = jax.random.normal(jax.random.key(3), jax.eval_shape(lambda: op(lax, x, w)).shape)

    def step(lib: Any, options: Callable[[jax.Array], dict]) -> Callable:
        def run(x, w, g, key):
            y, vjp = jax.vjp(lambda x, w: op(lib, x, w, **options(key)), x, w)
            return y, vjp(g)

        return run

    rows = [Case("jax.lax", step(lax, lambda key: {}), (x, w, g, key), "reference")]
    for recipe in recipes:
        options = lambda key, recipe=recipe: {"recipe": recipe, "key": key}  # noqa: E731
        rows.append(Case(recipe, step(fp4, options), (x, w, g, key)))
    return rows


def train_step(size: str, recipe: str | None, batch: int) -> tuple[Callable, tuple]:
    """A training step of the paper's CNN (None: Flax's own convolutions), and its arguments."""
    model: Any = models.create("cnn", size, rngs=nnx.Rngs(0))
    if recipe is not None:
        fp4nnx.apply_recipe(model, recipe, keep=model.high_precision, verbose=False)
    model.train()
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    optimizer = optax.adamax(5e-4)

    def step(params, rest, state, x, target, i):
        def loss_of(params):
            model = nnx.merge(graph, params, rest, copy=True)
            fp4nnx.refresh_keys(model, 0, i)
            logits = model(x, rngs=nnx.Rngs(dropout=jax.random.fold_in(jax.random.key(0), i)))
            loss = optax.sigmoid_binary_cross_entropy(logits, target).mean()
            return loss, nnx.state(model, nnx.Not(nnx.Param))

        (loss, new_rest), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), new_rest, state, loss

    x = jax.random.normal(jax.random.key(1), (batch, 256, 256, 3))
    target = (jax.random.uniform(jax.random.key(2), (batch, 256, 256, 1)) < 0.1).astype(jnp.float32)
    return step, (params, rest, optimizer.init(params), x, target, jnp.int32(0))


def network_cases(args: Args) -> list[Case]:
    """The baseline first: the recipes' overhead is taken over it."""
    rows = []
    for recipe in ("baseline", *(r for r in args.recipes if r != "baseline"), None):
        step, arguments = train_step(args.network, recipe, args.batch)
        name = recipe or "Flax's own convolutions"
        rows.append(Case(name, step, arguments, "reference" if recipe == "baseline" else ""))
    return rows


def print_memory(recipes: tuple[str, ...]) -> None:
    """Peak of temporary memory of a compiled step of the 4m CNN, batch 32 at 256 x 256."""
    reference = None
    for recipe in (None, *recipes):
        step, arguments = train_step("4m", recipe, 1)
        batched = [
            jax.ShapeDtypeStruct((32, *a.shape[1:]), a.dtype) if i in (3, 4) else a
            for i, a in enumerate(arguments)
        ]
        peak = jax.jit(step).lower(*batched).compile().memory_analysis().temp_size_in_bytes
        reference = reference or peak
        print(f"{recipe or 'Flax convolutions':20s} {peak / 1e9:6.2f} GB  {peak / reference:5.2f}x")


def main(args: Args) -> None:
    print(timing.machine())
    tables = {}
    for name in OPS:
        title = f"{name}: y, dx and dw; ratio = time over that of jax.lax"
        tables[title] = timing.measure(op_cases(name, args.recipes), args.rounds)
        timing.show(title, tables[title])
    if args.network != "none":
        title = (
            f"paper's CNN {args.network}, training step, batch {args.batch}, 256 x 256; "
            "ratio = time over that of the baseline recipe"
        )
        tables[title] = timing.measure(network_cases(args), args.rounds)
        timing.show(title, tables[title])
    if args.memory:
        print("peak of temporary memory, paper's CNN 4m, batch 32, 256 x 256")
        print_memory(args.recipes)
    if args.json:
        timing.save(args.json, tables)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Args, description=__doc__))
