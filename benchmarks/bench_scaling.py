"""How the time of a training step grows with batch, side, tokens and model, ours and PyTorch's.

    python -m benchmarks.bench_scaling [--networks cnn vit] [--axes batch side] [--plot FILE.png]

Steps are those of the trainer (float32, no augmentation) of the five networks, with 500k parameters
(Swin UNETR: feature size 12), and of the same networks in PyTorch (MONAI's Swin UNETR) on the same
cores, which take turns. On log axes a power
is a line: "power" is its slope by least squares with the standard error, "last" the slope between
the two largest sizes, where constant costs count least. "at most" is the power that operations have
(attention over all tokens: the square; else pixels, voxels, tokens or parameters to the first); a
power beyond it by more than 0.15 and two standard errors is marked. Powers below it are what
constant costs make of small sizes.

* batch: images of a step, at the network's usual side.
* side: of the images, at batch 2 (volumes: 1). tokens: the same steps by the number of tokens of a
  transformer, 16 x 16 pixels each, of Swin UNETR 2 to each side.
* size: trainable parameters of the scales, or of feature sizes, at batch 2 (volumes: 1).

Without torch (for Swin UNETR: MONAI) its rows are left out. Run it on a machine with nothing else
to do. It compiles a program for every point.
"""

import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

import fp4jax as fp4
from benchmarks import networks, power_fit, scaling_peer, scaling_tables, timing, torch_peer
from benchmarks.bench_train import Compiled, sample
from benchmarks.networks import NETWORKS, Network
from benchmarks.scaling_peer import Shape
from benchmarks.scaling_tables import Growth
from benchmarks.timing import Run
from fp4jax import models

AXES = ("batch", "side", "size")
PEER = "PyTorch"
# Two pools of threads spin for some milliseconds after their work.
_PAUSE = 0.02


@dataclasses.dataclass(frozen=True)
class Args:
    """Growth of the time of training steps."""

    # cnn, vit, swin, swin_unetr_2d, swin_unetr_3d
    networks: tuple[str, ...] = tuple(NETWORKS)
    # what grows: batch, side (with tokens), size
    axes: tuple[str, ...] = AXES
    # by name or by the paper's id
    recipes: tuple[str, ...] = ("baseline", "2d+rht+sr")
    # images of a step
    batches: tuple[int, ...] = (1, 2, 4, 8, 16)
    # sides of images, of those that the network takes
    sides: tuple[int, ...] = (64, 128, 192, 256, 384)
    # sides of volumes
    sides_3d: tuple[int, ...] = (64, 96, 128)
    # scales of the models; of Swin UNETR feature sizes, multiples of 12 as MONAI takes them
    scales: tuple[str, ...] = ("500k", "4m", "15m")
    features: tuple[int, ...] = (12, 24, 36)
    # rounds; each runs every row of a point once
    rounds: int = 5
    # time PyTorch, too, if it is installed and jax runs on the CPU
    torch: bool = True
    # write the figures here, too
    json: Path | None = None
    # draw them
    plot: Path | None = None

    def __post_init__(self):
        networks.checked(self.networks)
        if unknown := sorted(set(self.axes) - set(AXES)):
            raise ValueError(f"axes has {', '.join(unknown)}; allowed: {', '.join(AXES)}.")
        if self.rounds < 1:
            raise ValueError(f"rounds is {self.rounds}; it must be at least 1.")
        names = dict.fromkeys(fp4.get_recipe(recipe).name for recipe in self.recipes)
        object.__setattr__(self, "recipes", tuple(names))
        for name in self.networks:
            for axis in self.axes:
                if len(points(self, NETWORKS[name], axis)) < 2:
                    raise ValueError(
                        f"{axis} has less than two sizes that {name} takes; give more (its images "
                        f"have sides that are multiples of {NETWORKS[name].multiple})."
                    )


@dataclasses.dataclass(frozen=True)
class Point:
    """What is trained at a size on an axis."""

    side: int
    batch: int
    model: str


def points(args: Args, network: Network, axis: str) -> list[Point]:
    """Those of an axis, smallest first; scales in their order."""
    few, smallest = min(2, network.batch), network.smallest
    if axis == "batch":
        return [Point(network.side, batch, smallest) for batch in sorted(set(args.batches))]
    if axis == "size":
        sizes = [scale for scale in models.scales(network.arch) if scale in args.scales]
        if network.of_monai:
            sizes = [str(features) for features in sorted(set(args.features))]
        return [Point(network.sizes_side, few, size) for size in sizes]
    sides = sorted(set(args.sides if network.dims == 2 else args.sides_3d))
    return [Point(side, few, smallest) for side in sides if network.takes(side)]


def size_of(network: Network, axis: str, point: Point) -> int:
    """Of a point on its axis."""
    return network.parameters(point.model) if axis == "size" else getattr(point, axis)


def at_most(network: Network, axis: str) -> float:
    """The power of the operations."""
    attends_to_all = 2 if network.arch == "vit" else 1
    return {"side": network.dims * attends_to_all, "tokens": attends_to_all}.get(axis, 1)


def measure(args: Args, network: Network, axis: str) -> tuple[list[int], dict[str, list[float]]]:
    """Sizes, and the median seconds of each recipe and of the peer at each of them."""
    todo = points(args, network, axis)
    peer = _peer(args, network, todo)
    found: dict[str, list[float]] = {}
    try:
        for i, point in enumerate(todo):
            runs = [_run(network, point, recipe) for recipe in args.recipes]
            if peer:
                runs.append(Run(PEER, functools.partial(peer.call, str(i))))
            for result in timing.alternate(runs, args.rounds, _PAUSE):
                found.setdefault(result.name, []).append(result.median)
            del runs
            jax.clear_caches()
    finally:
        if peer:
            peer.close()
    return [size_of(network, axis, point) for point in todo], found


def _run(network: Network, point: Point, recipe: str) -> Run:
    config = network.config(
        recipe, side=point.side, batch=point.batch, **network.of_size(point.model)
    )
    return Run(recipe, Compiled(config, sample(config), 0).runner())


def _peer(args: Args, network: Network, todo: Sequence[Point]) -> torch_peer.Peer | None:
    if no_peer(args, network):
        return None
    shapes = [
        Shape(
            network.arch,
            network.size_options(p.model),
            network.dims,
            p.side,
            p.batch,
            *network.channels,
        )
        for p in todo
    ]
    return torch_peer.Peer(scaling_peer.steps, shapes)


def no_peer(args: Args, network: Network) -> str:
    """Why the peer is not timed; "" if it is."""
    if not args.torch:
        return "left out"
    if jax.default_backend() != "cpu":
        return "not timed: jax does not run on the CPU"
    package = scaling_peer.missing(network.arch)
    return f"not timed: {package} is not installed" if package else ""


def growths(args: Args, name: str) -> list[Growth]:
    """A growth for each axis of a network; tokens follow from the sides."""
    network = NETWORKS[name]
    found = []
    for axis in args.axes:
        sizes, seconds = measure(args, network, axis)
        axes = {axis: sizes}
        if axis == "side" and network.patch:
            axes["tokens"] = [(side // network.patch) ** network.dims for side in sizes]
        for of, x in axes.items():
            powers = {who: power_fit.fit(x, y) for who, y in seconds.items()}
            limit, note = at_most(network, of), no_peer(args, network)
            found.append(Growth(network.title, of, x, seconds, powers, limit, note))
    return found


def main(args: Args) -> None:
    about = timing.machine() | {
        "torch": torch_peer.version() or "not installed",
        "load average": f"{os.getloadavg()[0]:.1f}",
    }
    print(about)
    found: list[Growth] = []
    for name in args.networks:
        new = growths(args, name)
        for growth in new:
            scaling_tables.show(growth)
        found += new
        # After every network: a run takes minutes.
        if args.json:
            content: dict[str, Any] = {"machine": about}
            timing.write_json(
                args.json, content | {"tables": [dataclasses.asdict(g) for g in found]}
            )
        if args.plot:
            from benchmarks import plots

            plots.growths(args.plot, found)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Args, description=__doc__))
