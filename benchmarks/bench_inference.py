"""Inference with the paper's models: float32, bfloat16, fake-quantized, packed, decoded; and sizes.

    python -m benchmarks.bench_inference [--scale 500k 4m 15m] [--rounds 7] [--json FILE]
        [--plot FILE.png]

A call takes normalized images to logits in evaluation mode. Weights are arguments of the compiled
call: nothing is decoded or cast beforehand, but for the rows "decoded" (fp4jax.nnx.decode), which
have the packed model's file. W4A16 is the recipe's weights, unrotated, with x as it is. Ratios are
over the float32 model; above 1 is slower. MB: parameters and statistics in memory, and the size of
a safetensors file.
"""

import dataclasses
import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import plots, timing
from benchmarks.timing import Result, Run
from fp4jax import models, nnx as fp4nnx, packed
from fp4jax.ops.recipe import Recipe, get_recipe
from fp4jax.packed import tensors

_SCALES = ("500k", "4m", "15m")


@dataclasses.dataclass(frozen=True)
class Args:
    """Benchmark of inference."""

    # models to time: cnn, vit, swin
    arch: tuple[str, ...] = ("cnn", "vit", "swin")
    # their sizes: 500k, 4m, 15m
    scale: tuple[str, ...] = ("500k",)
    # images of a call
    batch: tuple[int, ...] = (1, 8)
    # rounds; each runs every case once
    rounds: int = 7
    # of the fake-quantized and the packed model
    recipe: str = "2d+rht+sr"
    # side of the images
    image_size: int = 256
    # write the figures here, too
    json: Path | None = None
    # draw the times here
    plot: Path | None = None

    def __post_init__(self):
        for name, known in (("arch", models.names()), ("scale", _SCALES)):
            if unknown := sorted(set(getattr(self, name)) - set(known)):
                raise ValueError(f"{name} has {', '.join(unknown)}; allowed: {', '.join(known)}.")
        object.__setattr__(self, "recipe", get_recipe(self.recipe).name)
        if get_recipe(self.recipe).fprop[1] is None:
            raise ValueError(f"recipe {self.recipe!r} quantizes no weights in the forward pass.")
        if min((self.rounds, *self.batch), default=1) < 1:
            raise ValueError("rounds and batch must be at least 1.")


@dataclasses.dataclass(frozen=True)
class Case:
    """A model in evaluation mode, and bytes of a file of it."""

    name: str
    note: str
    model: nnx.Module
    file: int

    @classmethod
    def of(cls, name: str, note: str, model: nnx.Module) -> "Case":
        model.eval()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.safetensors")
            if packed.size(model).layers:
                fp4nnx.save_packed(path, model)
            else:
                flat = nnx.to_flat_state(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat)))
                values = {
                    ".".join(map(str, where)): np.asarray(v.get_raw_value()) for where, v in flat
                }
                tensors.write(path, values, {})
            return cls(name, note, model, path.stat().st_size)


def cases(args: Args, arch: str, scale: str) -> list[Case]:
    """The float32 model first."""
    create = functools.partial(models.create, arch, scale, image_size=args.image_size)

    def high(dtype: Any = None) -> nnx.Module:
        # The baseline recipe: fp4jax's convolutions, which are faster on CPU.
        model = create(rngs=nnx.Rngs(0), dtype=dtype)
        return fp4nnx.apply_recipe(model, "baseline", verbose=False)

    def fake(dtype: Any = None) -> nnx.Module:
        model: Any = create(rngs=nnx.Rngs(0), dtype=dtype)
        return fp4nnx.apply_recipe(model, args.recipe, keep=model.high_precision, verbose=False)

    def weights_only() -> nnx.Module:
        spec = get_recipe(args.recipe).fprop[1]
        assert spec is not None
        recipe = Recipe(name="W4A16", fprop=(None, dataclasses.replace(spec, hadamard=False)))
        model: Any = create(rngs=nnx.Rngs(0))
        return fp4nnx.apply_recipe(model, recipe, keep=model.high_precision, verbose=False)

    half = high(jnp.bfloat16)
    packed.narrow(half, jnp.bfloat16)
    pack = functools.partial(fp4nnx.pack, rest_dtype=jnp.bfloat16, verbose=False)
    small = Case.of("packed", "the same codes, rest computed in float32", pack(fake()))
    w4a16 = Case.of("W4A16", "packed weights, x as it is", pack(weights_only()))
    return [
        Case.of("float32", "reference", high()),
        Case.of("bfloat16", "computed and stored in bfloat16", half),
        Case.of("fake-quantized", f"{args.recipe}, computed in float32", fake()),
        small,
        Case.of("packed, bfloat16", "rest computed in bfloat16", pack(fake(jnp.bfloat16))),
        dataclasses.replace(small, name="decoded", note="once", model=fp4nnx.decode(small.model)),
        w4a16,
        dataclasses.replace(
            w4a16, name="W4A16, decoded", note="once", model=fp4nnx.decode(w4a16.model)
        ),
    ]


def lowered(model: nnx.Module, images: jax.Array) -> tuple[Any, nnx.State]:
    """The model's call, not yet compiled, and the state that is its first argument."""
    graph, state = nnx.split(model)
    return jax.jit(lambda state, x: nnx.merge(graph, state)(x)).lower(state, images), state


def measure(todo: Sequence[Case], args: Args, batch: int) -> list[Result]:
    """All cases of one model with one batch size."""
    shape = (batch, args.image_size, args.image_size, 3)
    images = jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))
    calls, states = zip(*(lowered(case.model, images) for case in todo), strict=True)
    compiled = timing.compile_all([call.compile for call in calls])
    runs = [
        Run(case.name, functools.partial(program, state, images), case.note)
        for case, program, state in zip(todo, compiled, states, strict=True)
    ]
    results = timing.alternate(runs, args.rounds)
    return [
        dataclasses.replace(
            result,
            more={
                "images/s": batch / result.median,
                "MB": packed.size(case.model).nbytes / 1e6,
                "file MB": case.file / 1e6,
            },
        )
        for result, case in zip(results, todo, strict=True)
    ]


def title_of(arch: str, scale: str, batch: int, image_size: int) -> str:
    return f"{arch} {scale}, inference, batch {batch}, {image_size} pixels a side"


def main(args: Args) -> None:
    about = timing.machine()
    print(about)
    tables: dict[str, Sequence[Result]] = {}
    for scale in args.scale:
        for arch in args.arch:
            todo = cases(args, arch, scale)
            for batch in args.batch:
                title = title_of(arch, scale, batch, args.image_size)
                tables[title] = measure(todo, args, batch)
                timing.show(title, tables[title])
                # After every table: a run takes minutes.
                if args.json:
                    timing.save(args.json, tables, about)
            jax.clear_caches()
    if args.plot:
        plots.bars(args.plot, {title: timing.rows(results) for title, results in tables.items()})


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Args, description=__doc__))
