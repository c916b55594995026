"""The best epoch of a finished run as a packed model."""

from pathlib import Path
from typing import Any

from flax import nnx

from fp4jax import nnx as fp4nnx
from fp4jax.core.typing import DTypeLike
from fp4jax.data import augment
from fp4jax.export.about import About
from fp4jax.files import read_json
from fp4jax.train.config import RunConfig, from_json
from fp4jax.train.evaluation import restore
from fp4jax.train.folder import RunFolder
from fp4jax.train.patients import read_examples
from fp4jax.train.program import Program, build


def packed_run(
    path: str | Path, *, recipe: str | None = None, rest_dtype: DTypeLike | None = None
) -> tuple[nnx.Module, About]:
    """The model of a run's best epoch, packed, and what it is.

    Args:
        path: the run's folder.
        recipe: another recipe than the run's: post-training quantization of a baseline run.
        rest_dtype: of the parameters that are not quantized, see :func:`fp4jax.nnx.pack`.

    Raises:
        ValueError: no finished run, no checkpoint, or a recipe that quantizes no weights.
    """
    model, about = run_model(path, recipe=recipe)
    try:
        return fp4nnx.pack(model, rest_dtype=rest_dtype, verbose=False), about
    except ValueError as error:
        raise ValueError(
            f"{path} was run with the recipe {about.recipe!r} and cannot be packed: {error}"
        ) from error


def run_model(path: str | Path, *, recipe: str | None = None) -> tuple[nnx.Module, About]:
    """The model of a run's best epoch with its recipe, in evaluation mode, and what it is."""
    path = Path(path)
    folder = RunFolder(path)
    record, summary = read_json(path / "config.json"), folder.summary()
    if record is None or summary is None:
        raise ValueError(f"{path} holds no finished run; name a folder with a summary.json.")
    config = from_json(record).resolved()
    channels = _channels(path)
    _, (params, stats), _ = restore(Program(config, channels, steps=1), folder)
    abstract = nnx.eval_shape(lambda: build(config, channels, 0))
    graph, _, _, rest = nnx.split(abstract, nnx.Param, nnx.BatchStat, ...)
    model: Any = nnx.merge(graph, params, stats, rest)
    if recipe is not None:
        keep = model.high_precision if config.keep is None else config.keep
        fp4nnx.apply_recipe(model, recipe, keep=keep, verbose=False)
    # Stochastic operations want some key, though the forward pass rounds to nearest.
    fp4nnx.refresh_keys(model, 0, 0)
    model.eval()
    return model, _about(config, channels, recipe, summary["threshold"], path.name)


def _about(
    config: RunConfig, channels: int, recipe: str | None, threshold: float, name: str
) -> About:
    return About(
        arch=config.arch,
        scale=config.scale,
        in_channels=channels,
        image_size=config.image_size,
        dtype=config.dtype,
        options=dict(config.model_options),
        recipe=recipe or config.recipe,
        threshold=threshold,
        # What the trainer normalizes by; it does not record the names of the channels.
        mean=augment.constants(augment.IMAGENET_MEAN, channels),
        sd=augment.constants(augment.IMAGENET_SD, channels),
        data=config.data,
        run=name,
    )


def _channels(path: Path) -> int:
    """Of the cohort that a run was trained on: its example slices have them."""
    examples = path / "examples.npz"
    return read_examples(examples).images.shape[-1] if examples.exists() else 3
