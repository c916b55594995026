"""Swin UNETR against MONAI's on PyTorch, on the same cores: inference and training steps.

    python -m benchmarks.bench_swin_unetr [--cases 2d 3d] [--rounds 5] [--json FILE]

2d: feature size 24, 128 x 128, 3 inputs, 1 output. 3d: feature size 12, 64^3, 4 inputs, 3 outputs.
A training step is forward, BCE + Tversky, backward, clipping and AdamW's update. MONAI runs in a
process of its own that takes turns with this one, in both memory layouts, with the same weights'
shapes and its own random weights. It is used where it and torch are installed.
"""

import contextlib
import dataclasses
import functools
import importlib.metadata
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing, torch_peer
from benchmarks.timing import Result, Run
from fp4jax.train import Batch, Program, RunConfig, Volumes
from fp4jax.train.config import MONAI

# Two pools of threads spin for some milliseconds after their work.
_PAUSE = 0.02


@dataclasses.dataclass(frozen=True)
class Problem:
    """A network and a batch."""

    dims: Literal[2, 3]
    features: int
    side: int
    batch: int
    inputs: int
    outputs: int

    def program(self, recipe: str, dtype: str) -> Program:
        patch = (self.side,) * self.dims
        config = RunConfig(
            Volumes(spatial_dims=self.dims, patch_size=patch, augment="none"),
            arch="swin_unetr",
            scale=MONAI,
            recipe=recipe,
            model_options={"feature_size": self.features},
            batch_size=self.batch,
            loss="bce_tversky",
            dtype=dtype,  # pyright: ignore
        )
        return Program(config, self.inputs, self.outputs)

    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        """Noise, and a brighter ball, which is every region."""
        rng = np.random.default_rng(0)
        space = (self.side,) * self.dims
        images = rng.normal(size=(self.batch, *space, self.inputs)).astype(np.float32)
        axes = np.meshgrid(*[np.linspace(-1, 1, self.side)] * self.dims, indexing="ij")
        ball = sum(axis**2 for axis in axes) < 0.2
        images[:, ball] += 1
        targets = np.broadcast_to(ball[None, ..., None], (self.batch, *space, self.outputs))
        return images, targets.astype(np.uint8)


CASES = {
    "2d": Problem(dims=2, features=24, side=128, batch=8, inputs=3, outputs=1),
    "3d": Problem(dims=3, features=12, side=64, batch=1, inputs=4, outputs=3),
}


@dataclasses.dataclass(frozen=True)
class Args:
    """Benchmark of Swin UNETR."""

    # networks to time: 2d, 3d
    cases: tuple[str, ...] = tuple(CASES)
    # rounds; each runs every row once
    rounds: int = 5
    # recipes over the baseline, by name or by the paper's id
    recipes: tuple[str, ...] = ("forward_only", "2d+rht+sr")
    # dtype of the computation; default: float32 on CPU, bfloat16 elsewhere
    dtype: Literal["float32", "bfloat16"] | None = None
    # time MONAI, too, if it is installed and jax runs on the CPU
    monai: bool = True
    # write the figures here, too
    json: Path | None = None

    def __post_init__(self):
        if unknown := set(self.cases) - set(CASES):
            raise ValueError(f"cases has {', '.join(unknown)}; allowed: {', '.join(CASES)}.")
        if self.rounds < 1:
            raise ValueError(f"rounds is {self.rounds}; it must be at least 1.")


def ours(problem: Problem, recipe: str, dtype: str) -> dict[str, Callable[[], Any]]:
    """Inference and training step of fp4jax."""
    program = problem.program(recipe, dtype)
    images, targets = (jnp.asarray(a) for a in problem.sample())
    index, rate = jnp.arange(len(images), dtype=jnp.int32), program.config.learning_rate
    batch = Batch(images, targets, index, jnp.int32(1), jnp.float32(rate))
    states = [program.start(0)]
    step = program.step.lower(states[0], batch).compile()
    # Of its own: steps donate their state.
    variables = jax.tree.map(jnp.copy, (states[0].params, states[0].stats))
    predict = jax.jit(program.predict).lower(variables, images).compile()

    def train() -> Any:
        states[0], values = step(states[0], batch)
        return values["loss"], states[0].params

    return {"inference": lambda: predict(variables, images), "training step": train}


def theirs(problem: Problem, images: np.ndarray, targets: np.ndarray) -> torch_peer.Calls:
    """Both of MONAI's network, by ``"<what>, <layout>"``."""
    import torch
    from monai.networks.nets.swin_unetr import SwinUNETR

    x, y = (torch.from_numpy(np.moveaxis(a, -1, 1).astype(np.float32)) for a in (images, targets))
    x, y = x.contiguous(), y.contiguous()
    adamw = functools.partial(torch.optim.AdamW, lr=1e-4, weight_decay=1e-5, fused=True)

    def create() -> Any:
        return SwinUNETR(
            in_channels=problem.inputs,
            out_channels=problem.outputs,
            feature_size=problem.features,
            spatial_dims=problem.dims,
        )

    def inference(layout: str) -> Callable[[], float]:
        model, image = torch_peer.arranged(create().eval(), x, layout)

        def call() -> float:
            with torch.inference_mode():
                return model(image)[0, 0].mean().item()

        return call

    calls: torch_peer.Calls = {}
    for layout in torch_peer.LAYOUTS:
        calls[f"inference, {layout}"] = inference(layout)
        calls[f"training step, {layout}"] = torch_peer.train_step(create(), x, y, layout, adamw)
    return calls


def measure(args: Args, problem: Problem) -> dict[str, list[Result]]:
    """A table of inference and one of the training step; the baseline first."""
    dtype = args.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    calls = {recipe: ours(problem, recipe, dtype) for recipe in ("baseline", *args.recipes)}
    tables = {}
    with contextlib.ExitStack() as stack:
        reason, peer = _no_monai(args), None
        if not reason:
            peer = stack.enter_context(torch_peer.Peer(theirs, problem, *problem.sample()))
        for what in ("inference", "training step"):
            todo = [Run(recipe, calls[recipe][what]) for recipe in calls]
            if peer:
                note = f"{peer.threads} threads; above 1: fp4jax is faster"
                todo += [
                    Run(f"MONAI, {layout}", functools.partial(peer.call, f"{what}, {layout}"), note)
                    for layout in torch_peer.LAYOUTS
                ]
            found = timing.alternate(todo, args.rounds, _PAUSE)
            tables[what] = [*found, Result("MONAI", reason, (), ())] if reason else found
    return tables


def _no_monai(args: Args) -> str:
    """Why MONAI is not timed; empty if it is."""
    if not args.monai:
        return "left out"
    if jax.default_backend() != "cpu":
        return "not timed: jax does not run on the CPU"
    missing = [name for name in ("torch", "monai") if not importlib.util.find_spec(name)]
    return f"not timed: {' and '.join(missing)} not installed" if missing else ""


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    versions = {}
    for name in ("torch", "monai"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {**timing.machine(), **versions}


def main(args: Args) -> None:
    about = machine()
    print(about)
    tables: dict[str, Sequence[Result]] = {}
    for name in args.cases:
        problem = CASES[name]
        size = " x ".join([str(problem.side)] * problem.dims)
        for what, results in measure(args, problem).items():
            title = (
                f"Swin UNETR {name}, feature size {problem.features}, {what}, batch "
                f"{problem.batch}, {size}; ratio = time over that of the baseline"
            )
            tables[title] = results
            timing.show(title, results)
            if args.json:
                timing.save(args.json, tables, about)
        jax.clear_caches()


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Args, description=__doc__))
