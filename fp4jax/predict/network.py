"""Network: what segments files, wherever it comes from: a run, a packed file, a checkpoint."""

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fp4jax import nnx as fp4nnx
from fp4jax.core.typing import Array, Float
from fp4jax.data.nifti import REGIONS
from fp4jax.data.nifti.brats import MODALITIES
from fp4jax.inference import (
    Alone,
    Predict,
    Segmentation,
    mean_probabilities,
    mirrored,
    segment_volume,
    to_probabilities,
)
from fp4jax.predict.about import About, about_model, about_run
from fp4jax.predict.packed_files import describe, load_packed
from fp4jax.train import Model, RunConfig, Task, Volumes, read_trained
from fp4jax.train.program import key_of, program_of
from fp4jax.version import NUMERICS


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A network in evaluation mode; each slice and each window is computed as if it were alone.

    Several models make one network (:func:`fp4jax.predict.together`): the mean of their
    probabilities counts.

    Attributes:
        about: what it is.
        task: what its data are; another one (``dataclasses.replace``) reads files that are laid
            out in another way.
        predicts: the forward pass of each model, of images as they are stored.
        variables: parameters and statistics.
        config: all else that its outputs depend on, as JSON.
        mirror: axes of the images over whose flips logits are averaged, see
            :func:`fp4jax.inference.mirrored`.
        packed: the packed variables, where ``variables`` are decoded ones; else None.
    """

    about: About
    task: Task
    predicts: tuple[Predict, ...]
    variables: Any
    config: str
    mirror: tuple[int, ...] = ()
    packed: Any = None

    def probabilities(self, images: Iterable[np.ndarray]) -> Iterator[Float[np.ndarray, "..."]]:
        """The probabilities (*space, k) of images of one size, one after the other."""
        exclusive = self.about.exclusive
        copies = itertools.tee(images, len(self.predicts))
        logits = [
            mirrored(predict, self.mirror)(own)
            for predict, own in zip(self.predicts, copies, strict=True)
        ]
        for of_image in zip(*logits, strict=True):
            yield mean_probabilities(to_probabilities(z, exclusive=exclusive) for z in of_image)

    def segment(self, image: Float[np.ndarray, "x y z c"]) -> Segmentation:
        """The regions of a volume, window by window."""
        task: Any = self.task
        return segment_volume(
            self.predicts,
            image,
            task.patch_size,
            overlap=task.overlap,
            exclusive=self.about.exclusive,
            mirror=self.mirror,
        )

    @property
    def identity(self) -> dict[str, Any]:
        """What tells networks apart, for the journal of a folder of results."""
        about = self.about
        # Sums in another order. Journals of networks that are not decoded do not mention it.
        decode = {} if self.packed is None else {"decode": True}
        return {
            "run": about.run,
            "recipe": about.recipe,
            "weights": self.digest,
            "config": hashlib.sha256(self.config.encode()).hexdigest(),
            "numerics": NUMERICS,
            "mirror": list(self.mirror),
            **decode,
        }

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the values of all parameters and statistics, of packed weights as packed."""
        found = hashlib.sha256()
        for leaf in jax.tree.leaves(self.variables if self.packed is None else self.packed):
            array = np.asarray(leaf)
            found.update(f"{array.dtype} {array.shape}".encode())
            found.update(array.tobytes())
        return found.hexdigest()


def from_model(model: Model, about: About) -> Network:
    """The network of a run, as its scores are of."""
    # What the file of weights is called does not count.
    config = key_of(dataclasses.replace(model.config, weights=None))
    variables = model.params, model.stats
    predict = functools.partial(model.program.alone.each, variables)
    return Network(about, model.config.data, (predict,), variables, config)


def from_module(module: nnx.Module, about: About) -> Network:
    """An NNX model in evaluation mode, packed or not."""
    task = about.create_task()
    graph, state = nnx.split(module)
    # On which patients it was trained changes no output.
    config = dataclasses.replace(about, patients={}, contents={}, digest="").to_json()

    def forward(variables: Any, images: Array) -> Array:
        model: Any = nnx.merge(graph, variables)
        return model(task.inputs(images))

    return Network(about, task, (functools.partial(Alone(forward).each, state),), state, config)


def from_run(path: str | Path, *, recipe: str | None = None, static: bool = False) -> Network:
    """The best epoch of a run, or the best so far of one that is not finished, which is said.

    Args:
        path: the run's folder.
        recipe: another recipe than the run's: quantization after training, or none (baseline).
        static: with the static scales that the run was calibrated to, and their threshold.

    Raises:
        ValueError: no run, no parameters yet, or static scales of a run without.
    """
    run = read_trained(Path(path).expanduser(), static=static)
    model = run.model(recipe)
    return from_model(model, about_run(run, model.config))


def from_file(path: str | Path, *, decode: bool = False) -> Network:
    """A packed model that says what it is.

    Args:
        path: of the file.
        decode: decode its weights once, see :func:`fp4jax.nnx.decode`, and not in each call: on a
            machine without FP4 units faster, in the memory of a float model.

    Raises:
        ValueError: no packed model, or one that does not say what makes it.
        OSError: it cannot be read.
    """
    path = Path(path).expanduser()
    model, about = load_packed(path), describe(path)
    network = from_module(model, about)
    if not decode:
        return network
    decoded = from_module(fp4nnx.decode(model), about)
    return dataclasses.replace(decoded, packed=network.variables)


def from_weights(config: RunConfig) -> Network:
    """A checkpoint with torch's names, such as MONAI's, under the recipe of a configuration.

    Args:
        config: names the checkpoint (``weights``), the model that it fits, and the data: a
            :class:`fp4jax.train.Volumes` with the order of the channels and of the regions;
            default: flair, t1, t1c, t2, and whole tumour, tumour core, enhancing.

    Raises:
        ValueError: no checkpoint is named, it does not fit the model, or the data are no volumes.
    """
    task: Any = config.data
    if config.weights is None:
        raise ValueError("nothing to segment with: name a run's folder, or --weights CHECKPOINT.")
    if not isinstance(task, Volumes):
        raise ValueError(f"a checkpoint segments volumes; data is of kind {task.kind!r}.")
    channels = task.modalities or tuple(task.patterns) or MODALITIES
    regions = task.regions or REGIONS
    program = program_of(config, len(channels), len(regions))
    state = program.start(jnp.uint32(config.seed))
    model = Model(program, state.params, state.stats, channels, regions)
    return from_model(model, about_model(config, channels, regions, run=config.weights.name))
