"""A whole training step of the 500k models: recipes, seeds, and PyTorch on the same cores.

    python -m benchmarks.bench_train [--arch cnn vit swin unet] [--rounds 7] [--json FILE]

A step is forward, the task's loss, backward, clipping and update, in float32; the reference is the
baseline recipe without augmentation. cnn, vit and swin, the paper's, are trained on slices, unet on
3D patches of volumes. PyTorch gets images that are normalised already, and runs in a process of its
own that takes turns with this one. It is used for the paper's models where it is installed.
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
from fp4jax.train import Batch, Program, RunConfig, Slices, Volumes

_OF_SLICES = ("cnn", "vit", "swin")
_ARCHS = (*_OF_SLICES, "unet")
# Window 4 of patches of 16 pixels.
_MULTIPLE = 64
# Two pools of threads spin for some milliseconds after their work.
_PAUSE = 0.02
#: What the time of a step may at most be over that of the baseline: on CPU, elsewhere.
TARGETS = {"forward_only": (1.3, 1.15), "2d+rht+sr": (2.0, 1.3)}


@dataclasses.dataclass(frozen=True)
class Args:
    """Benchmark of the training steps."""

    # models to time, of 500k parameters: cnn, vit, swin of slices, unet of volumes
    arch: tuple[str, ...] = _OF_SLICES
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
    # edge of the patches of volumes, a multiple of 8 from 16 on; two are a batch
    patch_size: int = 48
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
        if self.patch_size < 16 or self.patch_size % 8:
            raise ValueError(f"patch_size is {self.patch_size}; give a multiple of 8 from 16 on.")
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


def config_of(args: Args, arch: str) -> RunConfig:
    """The baseline without augmentation."""
    if arch in _OF_SLICES:
        data = Slices(image_size=args.image_size, augment=False)
        return RunConfig(data, arch=arch, batch_size=args.batch_size)
    data = Volumes(patch_size=(args.patch_size,) * 3, augment="none")
    return RunConfig(data, arch=arch, scale="500k")


def augmented(config: RunConfig) -> RunConfig:
    """The same, with the task's augmentation."""
    task: Any = type(config.data)
    (field,) = (field for field in dataclasses.fields(task) if field.name == "augment")
    data: Any = dataclasses.replace(config.data, augment=field.default)  # pyright: ignore
    return dataclasses.replace(config, data=data)


#: Channels of images, and regions of targets: of slices, of volumes.
CHANNELS, REGIONS = {"slices": 3, "volumes": 4}, {"slices": 1, "volumes": 3}


def sample(config: RunConfig) -> Batch:
    """Noise, and a brighter ball in every example, which is the lesion: every region of it."""
    rng, kind = np.random.default_rng(0), config.data.kind
    images_of, targets_of = config.data.batch(config, CHANNELS[kind], REGIONS[kind])
    batch_size, *space, _ = images_of.shape
    if images_of.dtype == np.uint8:
        images = rng.integers(0, 156, images_of.shape, dtype=np.uint8)
    else:
        images = rng.normal(size=images_of.shape).astype(np.float32)
    ones = (1,) * len(space)
    centre = [rng.uniform(side / 4, 3 * side / 4, (batch_size, *ones)) for side in space]
    radius = rng.uniform(space[0] / 16, space[0] / 6, (batch_size, *ones))
    grid = np.mgrid[tuple(slice(side) for side in space)]
    squares = [(axis - middle) ** 2 for axis, middle in zip(grid, centre, strict=True)]
    ball = np.sum(squares, axis=0) < radius**2
    images += (ball[..., None] * (100 if images.dtype == np.uint8 else 1)).astype(images.dtype)
    targets = ball.reshape(*ball.shape, *(1,) * (len(targets_of.shape) - ball.ndim))
    return Batch(
        images=jnp.asarray(images),
        targets=jnp.asarray(np.broadcast_to(targets, targets_of.shape).astype(np.uint8)),
        index=jnp.arange(batch_size, dtype=jnp.int32),
        epoch=jnp.asarray(1, jnp.int32),
        rate=jnp.asarray(config.resolved().learning_rate, jnp.float32),
    )


class Compiled:
    """The call of a configuration: one step, or ``scan`` steps of ``lanes`` seeds.

    Traced when made; compiled on first use, or together with others by ``timing.compile_all``.
    """

    def __init__(self, config: RunConfig, batch: Batch, scan: int, lanes: int | None = None):
        kind = config.data.kind
        program = Program(config, CHANNELS[kind], REGIONS[kind], lanes)
        self.start, self.lanes, self.steps = program.start, lanes, scan or 1
        leading = () if lanes is None else (lanes,)
        function, arguments = program.step, (batch,)
        if scan:
            steps = batch.index, batch.epoch, batch.rate, jnp.ones((), jnp.bool_)
            many = [jnp.broadcast_to(a, (*leading, scan, *a.shape)) for a in steps]
            arguments = (batch.images, batch.targets, tuple(many))
            function = program.epoch
        elif lanes is not None:
            raise ValueError("lanes need a scan: the host calls the step of one run.")
        self._arguments = arguments
        state = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct((*leading, *a.shape), a.dtype), program.abstract()
        )
        self._lowered = function.lower(state, *arguments)

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
        states = [self.start(seed) for seed in range(self.lanes or runs)]
        if self.lanes is None:
            return states
        return [jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)]

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


def rows(args: Args, config: RunConfig, batch: Batch) -> list[Row]:
    """Those of fp4jax; the baseline first."""
    scan = args.scan or 0

    def row(compiled: Compiled, name: str, note: str = "", seeds: int = 1) -> Row:
        run = Run(name, compiled.runner(seeds), note, compiled.steps)
        return Row(run, seeds, compiled.temporary)

    baseline = Compiled(config, batch, scan)
    found = [
        row(baseline, "baseline", "reference"),
        row(Compiled(augmented(config), batch, scan), "baseline, augmented"),
    ]
    for recipe in args.recipes:
        limits = TARGETS.get(recipe)
        note = f"target: at most {limits[jax.default_backend() != 'cpu']}" if limits else ""
        changed = dataclasses.replace(config, recipe=recipe)
        found.append(row(Compiled(changed, batch, scan), recipe, note))
    for seeds in args.seeds:
        compiled, note = baseline, "one after the other"
        if seeds == 1:
            note = "the reference again"
        elif scan:
            compiled, note = Compiled(config, batch, scan, seeds), "lanes of a vmap"
        found.append(row(compiled, f"baseline, seeds: {seeds}", note, seeds))
    return found


def size_of(config: RunConfig) -> str:
    """Of a batch, for titles."""
    images, _ = config.data.batch(config, 1, 1)
    batch_size, *space, _ = images.shape
    return f"batch {batch_size}, {' x '.join(map(str, space))}"


def measure(args: Args, arch: str) -> list[Result]:
    """All rows of one architecture."""
    config = config_of(args, arch)
    batch = sample(config)
    todo = rows(args, config, batch)
    with contextlib.ExitStack() as stack:
        reason = _no_torch(args, arch)
        if not reason:
            layouts = torch_peer.LAYOUTS if arch == "cnn" else ("contiguous",)
            images, masks = np.asarray(augment.normalize(batch.images)), np.asarray(batch.targets)
            peer = stack.enter_context(
                torch_peer.Peer(torch_peer.training, arch, layouts, images, masks)
            )
            note = f"{peer.threads} threads; above 1: fp4jax is faster"
            for layout in layouts:
                step = functools.partial(peer.call, layout)
                todo.append(Row(Run(f"torch, {layout}", step, note)))
        results = timing.alternate([row.run for row in todo], args.rounds, _PAUSE)
    found = [
        _complete(result, row, len(batch.index)) for result, row in zip(results, todo, strict=True)
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


def _no_torch(args: Args, arch: str) -> str:
    """Why torch is not timed; empty if it is."""
    if not args.torch:
        return "left out"
    if arch not in _OF_SLICES:
        return "not timed: it has the paper's models"
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
            f"{arch} 500k, training step, {size_of(config_of(args, arch))}, float32; ratio = time "
            "over that of the baseline"
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
