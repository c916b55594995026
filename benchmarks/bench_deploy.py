"""Latency of one image on a CPU: packed by fp4jax, ONNX files in onnxruntime and OpenVINO, float32.

    python -m benchmarks.bench_deploy [--arch swin cnn] [--scale 500k] [--rounds 21] [--json FILE]

One image at a time, all cores of the machine, arrays on the host before and after. Files are
written in memory, as fp4jax export writes them: onnx-portable (4-bit integers and a table) for
onnxruntime, onnx-standard (4-bit floats) for OpenVINO, and both once more of the float32 model.
OpenVINO is asked for float32. A runtime that is not installed has a row that says so. Ratios
are over fp4jax's float32 model; above 1 is slower. MB: the file, or what the model holds in memory.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import timing
from benchmarks.timing import Result, Run
from fp4jax import models, nnx as fp4nnx, packed
from fp4jax.deploy.onnx.dialects import DIALECTS
from fp4jax.deploy.onnx.model import to_onnx
from fp4jax.ops.recipe import get_recipe

#: Bytes of a file -> a function of images that returns logits.
Load = Callable[[bytes], Callable[[np.ndarray], Any]]


@dataclasses.dataclass(frozen=True)
class Args:
    """Benchmark of deployed models."""

    # models to time
    arch: tuple[str, ...] = ("swin", "cnn")
    scale: str = "500k"
    # of the quantized models
    recipe: str = "2d+rht+sr"
    # side of the image
    image_size: int = 256
    # rounds; each runs every case once
    rounds: int = 21
    # seconds between two calls, so that threads of the last one are asleep
    pause: float = 0.05
    # write the figures here, too
    json: Path | None = None

    def __post_init__(self):
        if unknown := sorted(set(self.arch) - set(models.names())):
            allowed = ", ".join(models.names())
            raise ValueError(f"arch has {', '.join(unknown)}; allowed: {allowed}.")
        if get_recipe(self.recipe).fprop[1] is None:
            raise ValueError(f"recipe {self.recipe!r} quantizes no weights in the forward pass.")
        if self.rounds < 1 or self.pause < 0:
            raise ValueError("rounds must be at least 1, and pause must not be negative.")


@dataclasses.dataclass(frozen=True)
class Case:
    """Something to time, or why it cannot be; bytes of a file, or in memory."""

    name: str
    note: str
    call: Callable[[], Any] | None
    nbytes: int = 0


def cases(args: Args, arch: str) -> list[Case]:
    """fp4jax's float32 model first."""
    size = args.image_size
    create = functools.partial(models.create, arch, args.scale, image_size=size)
    model: Any = create(rngs=nnx.Rngs(0))
    high = fp4nnx.apply_recipe(create(rngs=nnx.Rngs(0)), "baseline", verbose=False)
    high.eval()
    keep = model.high_precision
    small = fp4nnx.pack(fp4nnx.apply_recipe(model, args.recipe, keep=keep, verbose=False))
    image = np.random.default_rng(0).standard_normal((1, size, size, 3), np.float32)
    found = [
        Case("fp4jax, float32", "reference", _compiled(high, image), packed.size(high).nbytes),
        Case("fp4jax, packed", args.recipe, _compiled(small, image), packed.size(small).nbytes),
    ]
    for runtime, dialect, load in (
        ("onnxruntime", "onnx-portable", _onnxruntime),
        ("OpenVINO", "onnx-standard", _openvino),
    ):
        for what, one in (("float32", high), (dialect, small)):
            found.append(_of_file(f"{runtime}, {what}", one, dialect, load, image))
    return found


def _compiled(model: nnx.Module, image: np.ndarray) -> Callable[[], Any]:
    graph, state = nnx.split(model)

    @jax.jit
    def forward(state: Any, x: Any) -> Any:
        model: Any = nnx.merge(graph, state)
        return model(x)

    program = forward.lower(state, jnp.asarray(image)).compile()
    return lambda: np.asarray(program(state, image))


def _of_file(name: str, model: nnx.Module, dialect: str, load: Load, image: np.ndarray) -> Case:
    """A model as a file in a runtime, if that is installed."""
    written = to_onnx(model, image.shape[1:], DIALECTS[dialect], batch=1)
    data = written.model.SerializeToString()
    try:
        run = load(data)
    except ModuleNotFoundError as error:
        return Case(name, f"{error.name} is not installed", None, len(data))
    return Case(name, f"{dialect}, batch 1", functools.partial(run, image), len(data))


def _onnxruntime(data: bytes) -> Callable[[np.ndarray], Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"images": image})


def _openvino(data: bytes) -> Callable[[np.ndarray], Any]:
    import openvino  # pyright: ignore[reportMissingImports]

    core = openvino.Core()
    hint = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(core.read_model(data), "CPU", hint)
    return lambda image: compiled({"images": image})


def measure(todo: Sequence[Case], args: Args) -> list[Result]:
    """All cases in interleaved rounds; those that cannot run keep their place."""
    runs = [Run(case.name, case.call, case.note) for case in todo if case.call is not None]
    measured = {r.name: r for r in timing.alternate(runs, args.rounds, args.pause)}
    return [
        dataclasses.replace(
            measured.get(case.name, Result(case.name, case.note, (), ())),
            more={"MB": case.nbytes / 1e6},
        )
        for case in todo
    ]


def main(args: Args) -> None:
    about = timing.machine()
    print(about)
    tables: dict[str, Sequence[Result]] = {}
    for arch in args.arch:
        title = f"{arch} {args.scale}, one image of {args.image_size} pixels a side"
        tables[title] = measure(cases(args, arch), args)
        timing.show(title, tables[title])
        # After every table: a run takes minutes.
        if args.json:
            timing.save(args.json, tables, about)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Args, description=__doc__))
