"""Parts of run_gpu that take times: products, quantizers, training steps, seeds, inference."""

import dataclasses

import jax
import jax.numpy as jnp

from benchmarks import bench_inference, bench_matmul, bench_quantize, bench_train, timing
from benchmarks.gpu_job import Job
from benchmarks.timing import Run
from fp4jax.kernels import explain_quantize
from fp4jax.kernels.block_scaled_matmul.arg_specs import LAYERS, Layer
from fp4jax.kernels.fused_quantizer import dispatch
from fp4jax.kernels.fused_quantizer.arg_specs import (
    BENCHMARKS,
    HADAMARD_STOCHASTIC,
    NEAREST,
    ArgSpec,
)
from fp4jax.train import RunConfig, Slices

#: What matters most comes first; then the other rows, and the project's own layers.
_FIRST_ROWS = (1, 16, 64, 128, 256, 4096)
_OTHER_ROWS = (8, 32, 1024, 2, 4, 512, 2048)
#: Of two quantized operands.
_W4A4_ROWS = (256, 4096)
_LAYER_ROWS = (64, 1024, 8192)
_LAYER_NAMES = ("15m qkv", "15m MLP out", "4m MLP in, qkv")

_ARCHS = ("swin", "vit", "cnn")
#: Ids of the paper's recipes that a training step is timed with, over the baseline.
_RECIPES = ("forward_only", "2d+rht+sr")
#: Steps of one call.
_STEPS = 8
#: A network that compiles in seconds.
_TINY_MODEL: dict[str, int | float | bool | str] = {"stages": 2, "channels": 16}


def matmul(job: Job) -> None:
    """scaled_matmul against bfloat16 and XLA's decoding, for few and many rows."""
    bandwidth = bench_matmul.measured_bandwidth(job.rounds, 2**16 if job.tiny else None)
    named = {layer.name: layer for layer in LAYERS}
    large = named["large"]
    todo = [(large, m, False) for m in _FIRST_ROWS]
    todo += [(large, m, True) for m in _W4A4_ROWS]
    todo += [(named[name], m, False) for name in _LAYER_NAMES for m in _LAYER_ROWS]
    todo += [(large, m, False) for m in _OTHER_ROWS]
    if job.tiny:
        tiny = Layer("large", 64, 32)
        todo = [(tiny, 1, False), (tiny, 16, True)]
    operands: bench_matmul.Operands | None = None
    for layer, m, quantized in job.in_time(todo, lambda item: bench_matmul.title_of(*item)):
        if operands is None or operands.layer != layer:
            del operands  # before as much is made again
            operands = bench_matmul.Operands.of(layer, 2 if job.tiny else None)
        results = bench_matmul.table(m, operands, bandwidth, job.rounds, quantized)
        title = bench_matmul.title_of(layer, m, quantized)
        job.add(title, results, layer=layer.name, rows=m, quantized=quantized)


def quantizer(job: Job) -> None:
    """The fused quantizer against XLA's code."""
    interpret = jax.default_backend() != "gpu"
    shapes = (ArgSpec("tiny", (32, 32), HADAMARD_STOCHASTIC),) if job.tiny else BENCHMARKS
    tables = bench_quantize.kernel_tables(job.rounds, shapes, interpret)
    for _ in job.in_time(shapes, lambda args: f"{args.name} {args.shape}"):
        args, title, results = next(tables)
        rotated = args.spec.hadamard and args.spec.stochastic
        job.add(title, results, shape=args.shape, hadamard_and_stochastic=rotated)


def training(job: Job) -> None:
    """Steps of the 4m models by recipe, with the fused quantizer and without."""
    recipes = _RECIPES[-1:] if job.tiny else _RECIPES
    for arch in job.in_time(("cnn",) if job.tiny else _ARCHS, str):
        config = _config(job, arch, "4m")
        batch = bench_train.sample(config)
        programs, notes = {}, []
        for fused in (True, False):
            _switch(fused)
            kind = "fused quantizer" if fused else "XLA's quantizer"
            for recipe in ("baseline", *recipes)[1 - fused :]:
                name = recipe if recipe == "baseline" else f"{recipe}, {kind}"
                changed = dataclasses.replace(config, recipe=recipe)
                programs[name] = bench_train.Compiled(changed, batch, 2 if job.tiny else _STEPS)
                # After tracing, which may have found a kernel wrong.
                typical = explain_quantize(
                    batch.targets.astype(jnp.float32), NEAREST, -1, "operand"
                )
                notes.append("" if recipe == "baseline" else typical)
        _switch(True)
        memory = timing.compile_all([lambda p=p: p.temporary / 1e6 for p in programs.values()])
        (state,) = programs["baseline"].states(1)
        runs = [
            Run(name, program.runner(states=[jax.tree.map(jnp.copy, state)]), note, program.steps)
            for (name, program), note in zip(programs.items(), notes, strict=True)
        ]
        results = timing.alternate(runs, job.rounds)
        shape = bench_train.size_of(config)
        title = f"{arch} {config.scale}, training step, {shape}; ratio over the baseline"
        more = [
            {"images/s": len(batch.index) / r.median, "temp MB": mb}
            for r, mb in zip(results, memory, strict=True)
        ]
        done = [dataclasses.replace(r, more=m) for r, m in zip(results, more, strict=True)]
        job.add(title, done, arch=arch)


def _switch(fused: bool) -> None:
    """The fused quantizer on or off for what is traced next; compiled programs keep theirs."""
    dispatch.switch(fused)
    # Traces of inner functions remember the choice.
    jax.clear_caches()


def _config(job: Job, arch: str, scale: str) -> RunConfig:
    if job.tiny:
        data = Slices(image_size=16)
        return RunConfig(data, arch=arch, scale="500k", batch_size=2, model_options=_TINY_MODEL)
    return RunConfig(Slices(image_size=256), arch=arch, scale=scale, batch_size=32)


def seeds(job: Job) -> None:
    """One seed and ten as lanes of a vmap, of the 500k models."""
    many = 2 if job.tiny else 10
    for arch in job.in_time(("cnn",) if job.tiny else _ARCHS, str):
        config = _config(job, arch, "500k")
        batch = bench_train.sample(config)
        steps = 2 if job.tiny else _STEPS
        programs = [bench_train.Compiled(config, batch, steps, lanes) for lanes in (None, many)]
        timing.compile_all([lambda p=p: p.program for p in programs])
        names = ("1 seed", f"{many} seeds, lanes of a vmap")
        runs = [Run(name, p.runner(), "", p.steps) for name, p in zip(names, programs, strict=True)]
        results = timing.alternate(runs, job.rounds)
        title = f"{arch} 500k, baseline, batch {config.batch_size}: {many} seeds over one"
        job.add(title, results, arch=arch, seeds=many)


def inference(job: Job) -> None:
    """Models in float32, bfloat16, fake-quantized and packed."""
    options = bench_inference.Args(
        arch=("vit",) if job.tiny else _ARCHS,
        scale=("500k",) if job.tiny else ("15m",),
        batch=(1,) if job.tiny else (1, 32),
        rounds=job.rounds,
        image_size=64 if job.tiny else 256,
    )
    (scale,) = options.scale
    for arch in job.in_time(options.arch, str):
        cases = bench_inference.cases(options, arch, scale)
        if job.tiny:
            cases = [cases[0], cases[-1]]
        for batch in job.in_time(options.batch, lambda b, a=arch: f"{a}, batch {b}"):
            results = bench_inference.measure(cases, options, batch)
            title = bench_inference.title_of(arch, scale, batch, options.image_size)
            job.add(title, results, arch=arch, batch=batch)
