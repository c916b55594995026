"""What `make study` runs until the study on MRI data exists: a small segmentation network.

    python -m experiments.demo [--steps 300] [--recipes baseline forward_only 2d+rht+sr]

Trains the same convolutional network on synthetic bright blobs under several recipes and prints
loss, average precision on unseen images and time per step. Expected, on two CPU cores in about a
minute: every recipe within 0.02 of the baseline's average precision, which is above 0.9.
"""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sklearn.metrics import average_precision_score

from fp4jax import nnx as fp4nnx


@dataclasses.dataclass(frozen=True)
class Args:
    """A demonstration of quantization-aware training."""

    # recipes to compare: names or the paper's ids
    recipes: tuple[str, ...] = ("baseline", "forward_only", "2d+rht+sr")
    # training steps, batch 8 at 64 x 64
    steps: int = 300
    # seed of weights, images and rounding
    seed: int = 2026


class Network(nnx.Module):
    """(n, h, w, 1) -> logits (n, h, w, 1): two strided convolutions and back up."""

    def __init__(self, rngs: nnx.Rngs):
        self.stem = nnx.Conv(1, 32, (4, 4), strides=2, padding=1, rngs=rngs)
        self.down = nnx.Conv(32, 64, (4, 4), strides=2, padding=1, rngs=rngs)
        self.up = nnx.ConvTranspose(64, 32, (4, 4), strides=(2, 2), padding="SAME", rngs=rngs)
        self.head = nnx.ConvTranspose(64, 1, (4, 4), strides=(2, 2), padding="SAME", rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        fine = nnx.relu(self.stem(x))
        coarse = nnx.relu(self.down(fine))
        return self.head(jnp.concatenate([nnx.relu(self.up(coarse)), fine], -1))


def blobs(key: jax.Array, n: int, size: int = 64) -> tuple[jax.Array, jax.Array]:
    """Noisy images with one blob each, and the blobs' masks."""
    keys = jax.random.split(key, 3)
    centre = jax.random.uniform(keys[0], (n, 2, 1, 1), minval=12, maxval=size - 12)
    radius = jax.random.uniform(keys[1], (n, 1, 1), minval=4, maxval=10)
    row, column = jnp.mgrid[:size, :size].astype(jnp.float32)
    distance = jnp.hypot(row[None] - centre[:, 0], column[None] - centre[:, 1])
    mask = (distance < radius).astype(jnp.float32)
    return (0.8 * mask + 0.5 * jax.random.normal(keys[2], mask.shape))[..., None], mask[..., None]


def train(recipe: str, args: Args, progress: Progress) -> tuple[float, float, float]:
    """Final loss, average precision on unseen images, milliseconds per step."""
    model = Network(nnx.Rngs(args.seed))
    name = int(recipe) if recipe.isdigit() else recipe
    model = fp4nnx.apply_recipe(model, name, keep=("stem", "head"), verbose=False)
    optimizer = nnx.Optimizer(model, optax.adam(3e-3), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, i):
        fp4nnx.refresh_keys(model, args.seed, i)
        x, mask = blobs(jax.random.fold_in(jax.random.key(args.seed), i), 8)

        def loss_of(model):
            return optax.sigmoid_binary_cross_entropy(model(x), mask).mean()

        loss, grads = nnx.value_and_grad(loss_of)(model)
        optimizer.update(model, grads)
        return loss

    loss = float(step(model, optimizer, 0))
    start = time.perf_counter()
    for i in progress.track(range(1, args.steps), description=recipe):
        loss = float(step(model, optimizer, i))
    elapsed = time.perf_counter() - start
    x, mask = blobs(jax.random.key(args.seed + 1), 64)
    precision = average_precision_score(np.ravel(mask), np.ravel(model(x)))
    return loss, float(precision), 1e3 * elapsed / max(args.steps - 1, 1)


def main(args: Args) -> None:
    console = Console()
    console.print("The study on MRI data is not part of fp4jax yet; this is a demonstration.")
    table = Table("recipe", "loss", "average precision", "ms per step")
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        for recipe in args.recipes:
            loss, precision, ms = train(recipe, args, progress)
            table.add_row(recipe, f"{loss:.4f}", f"{precision:.4f}", f"{ms:.1f}")
    console.print(table)
    example = fp4nnx.apply_recipe(
        Network(nnx.Rngs(args.seed)), args.recipes[-1], keep=("stem", "head"), verbose=False
    )
    console.print(str(fp4nnx.report(example)))


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Args, description=__doc__))
