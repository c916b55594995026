"""A whole training step of the paper's 500k models: recipes, seeds, and PyTorch on the same cores.

    python -m benchmarks.bench_train [--arch cnn vit swin] [--rounds 7] [--json FILE]

A step is forward, BCE + Tversky, backward, clipping and update, in float32; the reference is the
baseline recipe without augmentation. PyTorch gets images that are normalised already, and runs in
a process of its own that takes turns with this one. It is used where it is installed.
"""

import contextlib
import dataclasses
import functools
import importlib.metadata
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing, torch_peer
from benchmarks.timing import Result, Run
from fp4jax.data import augment
from fp4jax.train import Batch, Program, RunConfig

_ARCHS = ("cnn", "vit", "swin")
# Window 4 of patches of 16 pixels.
_MULTIPLE = 64
# Two pools of threads spin for some milliseconds after their work.
_PAUSE = 0.02
#: What the time of a step may at most be over that of the baseline: on CPU, elsewhere.
TARGETS = {"forward_only": (1.3, 1.15), "2d+rht+sr": (2.0, 1.3)}


@dataclasses.dataclass(frozen=True)
class Args:
    """Benchmark of the training steps."""

    # models to time, of 500k parameters: cnn, vit, swin
    arch: tuple[str, ...] = _ARCHS
    # rounds; each runs every case once
    rounds: int = 7
    # recipes over the baseline, by name or by the paper's id
    recipes: tuple[str, ...] = ("forward_only", "2d+rht+sr")
    # numbers of seeds that are trained together
    seeds: tuple[int, ...] = (1, 2, 4)
    # side of the images, a multiple of 64
    image_size: int = 256
    # images of a step
    batch_size: int = 8
    # time PyTorch, too, if it is installed
    torch: bool = True
    # steps of one lax.scan, whose seeds are lanes of a vmap; 0: the host calls every step, and
    # seeds go one after the other. Default: 0 on CPU, 16 elsewhere
    scan: int | None = None
    # write the figures here, too
    json: Path | None = None

    def __post_init__(self):
        if unknown := set(self.arch) - set(_ARCHS):
            raise ValueError(
                f"arch has {', '.join(sorted(unknown))}; allowed: {', '.join(_ARCHS)}."
            )
        if self.image_size < _MULTIPLE or self.image_size % _MULTIPLE:
            raise ValueError(f"image_size is {self.image_size}; give a multiple of {_MULTIPLE}.")
        for name in ("rounds", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        # Ids become names.
        names = dict.fromkeys(RunConfig(recipe=recipe).recipe for recipe in self.recipes)
        object.__setattr__(self, "recipes", tuple(names))
        if min(self.seeds, default=1) < 1:
            raise ValueError(f"seeds is {self.seeds}; every number must be at least 1.")
        if self.scan is None:
            object.__setattr__(self, "scan", 0 if jax.default_backend() == "cpu" else 16)
        elif self.scan < 0:
            raise ValueError(f"scan is {self.scan}; it must not be negative.")


def sample(batch_size: int, side: int) -> Batch:
    """Noise, and a brighter disk in every image, which is the lesion."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 156, (batch_size, side, side, 3), dtype=np.uint8)
    row, column = np.mgrid[:side, :side]
    y, x = rng.uniform(side / 4, 3 * side / 4, (2, batch_size, 1, 1))
    radius = rng.uniform(side / 16, side / 6, (batch_size, 1, 1))
    masks = ((row - y) ** 2 + (column - x) ** 2 < radius**2).astype(np.uint8)
    images += 100 * masks[..., None]
    return Batch(
        images=jnp.asarray(images),
        masks=jnp.asarray(masks),
        index=jnp.arange(batch_size, dtype=jnp.int32),
        epoch=jnp.asarray(1, jnp.int32),
    )


class Compiled:
    """The call of a configuration: one step, or ``scan`` steps of ``lanes`` seeds.

    Traced when made; compiled on first use, or together with others by ``timing.compile_all``.
    """

    def __init__(self, config: RunConfig, batch: Batch, scan: int, lanes: int | None = None):
        program = Program(config, channels=3, steps=10_000, lanes=lanes)
        self.init, self.lanes, self.steps = program.init, lanes, scan or 1
        function, arguments = program.step, (batch,)
        if scan:
            leading = () if lanes is None else (lanes,)
            order = jnp.broadcast_to(batch.index, (*leading, scan, len(batch.index)))
            active = jnp.ones(leading, jnp.bool_)
            arguments = (batch.images, batch.masks, order, batch.epoch, active)
            function = program.epoch
        seeds = jnp.uint32(0) if lanes is None else jnp.arange(lanes, dtype=jnp.uint32)
        self._arguments = arguments
        self._lowered = function.lower(jax.eval_shape(self.init, seeds), *arguments)

    @functools.cached_property
    def program(self) -> Any:
        return self._lowered.compile()

    @property
    def temporary(self) -> int:
        """Peak of the temporary memory in bytes."""
        return self.program.memory_analysis().temp_size_in_bytes

    def advance(self, state: Any) -> tuple[Any, dict]:
        """The next state, and the losses and the like of each step."""
        return self.program(state, *self._arguments)

    def states(self, runs: int) -> list[Any]:
        """Fresh ones: of ``runs`` single runs, or one of all lanes."""
        if self.lanes is not None:
            return [self.init(jnp.arange(self.lanes, dtype=jnp.uint32))]
        return [self.init(jnp.uint32(seed)) for seed in range(runs)]

    def runner(self, runs: int = 1, states: Any = None) -> Callable[[], list[float]]:
        """A function that takes the next step of every run and returns the losses.

        Steps donate ``states``, by default fresh ones.
        """
        states = self.states(runs) if states is None else list(states)

        def run() -> list[float]:
            losses = []
            for i, state in enumerate(states):
                states[i], values = self.advance(state)
                losses.append(values["loss"])
            jax.block_until_ready(states)
            return np.ravel(losses).tolist()

        return run


@dataclasses.dataclass(frozen=True)
class Row:
    """What is timed, for how many seeds at once, and its temporary memory in bytes."""

    run: Run
    seeds: int = 1
    temporary: int | None = None


def rows(args: Args, arch: str, batch: Batch) -> list[Row]:
    """Those of fp4jax; the baseline first."""
    scan = args.scan or 0
    config = RunConfig(
        arch=arch, image_size=args.image_size, batch_size=args.batch_size, augment=False
    )

    def row(compiled: Compiled, name: str, note: str = "", seeds: int = 1) -> Row:
        run = Run(name, compiled.runner(seeds), note, compiled.steps)
        return Row(run, seeds, compiled.temporary)

    def changed(**changes: Any) -> Compiled:
        return Compiled(dataclasses.replace(config, **changes), batch, scan)

    baseline = changed()
    found = [
        row(baseline, "baseline", "reference"),
        row(changed(augment=True), "baseline, augmented"),
    ]
    for recipe in args.recipes:
        limits = TARGETS.get(recipe)
        note = f"target: at most {limits[jax.default_backend() != 'cpu']}" if limits else ""
        found.append(row(changed(recipe=recipe), recipe, note))
    for seeds in args.seeds:
        compiled, note = baseline, "one after the other"
        if seeds == 1:
            note = "the reference again"
        elif scan:
            compiled, note = Compiled(config, batch, scan, seeds), "lanes of a vmap"
        found.append(row(compiled, f"baseline, seeds: {seeds}", note, seeds))
    return found


def measure(args: Args, arch: str) -> list[Result]:
    """All rows of one architecture."""
    batch = sample(args.batch_size, args.image_size)
    todo = rows(args, arch, batch)
    with contextlib.ExitStack() as stack:
        reason = _no_torch(args)
        if not reason:
            layouts = torch_peer.LAYOUTS if arch == "cnn" else ("contiguous",)
            images, masks = np.asarray(augment.normalize(batch.images)), np.asarray(batch.masks)
            peer = stack.enter_context(
                torch_peer.Peer(torch_peer.training, arch, layouts, images, masks)
            )
            note = f"{peer.threads} threads; above 1: fp4jax is faster"
            for layout in layouts:
                step = functools.partial(peer.call, layout)
                todo.append(Row(Run(f"torch, {layout}", step, note)))
        results = timing.alternate([row.run for row in todo], args.rounds, _PAUSE)
    found = [
        _complete(result, row, args.batch_size) for result, row in zip(results, todo, strict=True)
    ]
    return [*found, Result("torch", reason, (), ())] if reason else found


def _complete(result: Result, row: Row, batch_size: int) -> Result:
    more = {"images/s": row.seeds * batch_size / result.median}
    if row.temporary is not None:
        more["temp MB"] = row.temporary / 1e6
    note = result.note
    if row.seeds > 1:
        note += f"; {result.ratio / row.seeds:.2f} of {row.seeds} single runs"
    return dataclasses.replace(result, note=note, more=more)


def _no_torch(args: Args) -> str:
    """Why torch is not timed; empty if it is."""
    if not args.torch:
        return "left out"
    if jax.default_backend() != "cpu":
        return "not timed: jax does not run on the CPU"
    return "" if torch_peer.version() else "not timed: torch is not installed"


def machine() -> dict[str, str]:
    """What the figures were measured on, and how busy it was before."""
    versions = {name: importlib.metadata.version(name) for name in ("flax", "optax", "numpy")}
    torch = torch_peer.version() or "not installed"
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return {**timing.machine(), **versions, "torch": torch, "load average": load}


def main(args: Args) -> None:
    about = machine()
    print(about)
    tables: dict[str, Sequence[Result]] = {}
    for arch in args.arch:
        title = (
            f"{arch} 500k, training step, batch {args.batch_size}, {args.image_size} x "
            f"{args.image_size}, float32; ratio = time over that of the baseline"
        )
        tables[title] = measure(args, arch)
        timing.show(title, tables[title])
        # After every table: a run takes minutes.
        if args.json:
            timing.save(args.json, tables, about)
        jax.clear_caches()


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Args, description=__doc__))
